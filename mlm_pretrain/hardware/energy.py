"""What a run spends in electricity, as CodeCarbon estimates it where that is installed.

CodeCarbon (https://codecarbon.io) reads the GPUs' and, where the system lets it, the CPU's own counters, and reckons
from data sheets and the load what it can't read. It counts the whole machine of rank zero, whatever else runs there.
The country, whose electricity decides about the CO₂, is CodeCarbon's own setting (`CODECARBON_COUNTRY_ISO_CODE`, or
`country_iso_code` in `~/.codecarbon.config`); without one it takes the world's average. Nothing is looked up or sent.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

from mlm_pretrain.console import telemetry

PAUSE = 60.0
"""Seconds between two readings; each takes a tenth of one."""
KWH, KG = "energy_kwh", "emissions_kg"


class Energy:
    """The electricity since the run began, parts before the last resume included.

    `metrics.jsonl` keeps the readings. So a run that is taken up counts on from the record it goes on from, as its
    clock does: what was spent on steps that are done again is in neither.
    """

    def __init__(self, log: telemetry.MetricsLog) -> None:
        self._log = log
        self._meter = _Meter.started() if telemetry.is_rank_zero() else None
        self._read_at = -PAUSE
        self._before = {KWH: 0.0, KG: 0.0}
        for record in log.read() if self._meter else ():
            self._before |= {key: record[key] for key in (KWH, KG) if key in record}

    def reading(self) -> dict[str, float]:
        """`energy_kwh` and `emissions_kg` (CO₂ equivalents) so far; empty if none is due."""
        if self._meter is None or time.monotonic() - self._read_at < PAUSE:
            return {}
        self._read_at = time.monotonic()
        with contextlib.suppress(Exception):  # as below
            self._meter.tracker.flush()
        return self._so_far(self._meter)

    def figures(self) -> dict[str, Any]:
        """What it has come to, for `results.json`: `kwh`, `emissions_kg`, `country_iso_code` (None: the world's
        average), `since_step` (what was done before wasn't measured) and `method`; empty if nothing is measured.

        It ends the measuring.
        """
        meter, self._meter = self._meter, None
        if meter is None:
            return {}
        with contextlib.suppress(Exception):  # what was read last stands
            meter.tracker.stop()
        so_far, since = self._so_far(meter), 0
        for record in self._log.read():
            if KWH in record:
                break
            since = record["step"]
        return {
            "kwh": so_far[KWH],
            "emissions_kg": so_far[KG],
            "country_iso_code": meter.data.country_iso_code,
            "since_step": since,
            "method": f"CodeCarbon {meter.data.codecarbon_version}",
        }

    def _so_far(self, meter: _Meter) -> dict[str, float]:
        data = meter.data
        return {KWH: self._before[KWH] + data.energy_consumed, KG: self._before[KG] + data.emissions}


class _Meter:
    """A CodeCarbon tracker, and what it has told last: it tells an output at each `flush` and `stop`."""

    tracker: Any
    data: Any = None

    @classmethod
    def started(cls) -> _Meter | None:
        """None if CodeCarbon isn't installed, or can't make anything of this machine."""
        try:
            from codecarbon import OfflineEmissionsTracker
            from codecarbon.output import LoggerOutput, OutputMethod
        except ImportError:
            return None
        meter = cls()

        class Output(LoggerOutput):
            def out(self, total: Any, delta: Any) -> None:
                meter.data = total

        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        with contextlib.suppress(Exception):  # no figure of electricity is worth a run
            # Several runs of a machine may measure at a time; each counts all of it.
            meter.tracker = OfflineEmissionsTracker(
                output_methods=[OutputMethod.LOGGER],
                logging_logger=Output(None),
                log_level="critical",
                allow_multiple_runs=True,
            )
            meter.tracker.start()
            meter.tracker.flush()
        return meter if meter.data is not None else None
