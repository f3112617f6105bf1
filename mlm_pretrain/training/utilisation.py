"""Model FLOPs utilisation (PaLM, arXiv 2204.02311): what share of the device's arithmetic a run uses."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from mlm_pretrain.config import Config, Ramp
from mlm_pretrain.console import spent
from mlm_pretrain.errors import UserError
from mlm_pretrain.hardware.machine import DTYPES, measured_once
from mlm_pretrain.models.flops import count_flops, meta_model
from mlm_pretrain.training.numerics import Numerics

NOT_BEFORE = 30.0
"""Seconds of training: shorter runs are not worth the second that measuring takes."""


class Utilisation:
    """FLOPs per token ÷ the rate of the fastest matrix product on the devices of a run, times tokens a second."""

    def __init__(self, config: Config, model: PreTrainedModel, numerics: Numerics) -> None:
        self._config = config
        self._model = model
        self._numerics = numerics
        self._per_token: float | None = None
        self._is_known = False

    def of(self, tokens_per_second: float, seconds: float) -> float | None:
        """The share at a speed; None in the first seconds of a run, and where an architecture's FLOPs can't be counted,
        or are others from step to step (`sequence_length_warmup`).

        Args:
            seconds: how long the run has trained.
        """
        if seconds < NOT_BEFORE or self._config.training.sequence_length_warmup:
            return None
        if not self._is_known:
            # After so many seconds, which fall on another step each time: dropout may not notice.
            device = self._model.device
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                self._is_known, self._per_token = True, self._measure()
        return None if self._per_token is None else self._per_token * tokens_per_second

    def _measure(self) -> float | None:
        length, rate = self._config.stream.sequence_length, self._config.objective.mlm_probability
        labels = round((rate.end if isinstance(rate, Ramp) else rate) * length)
        try:
            trusted = self._config.model.trust_remote_code
            model = meta_model(self._model.config, trust_remote_code=trusted)
            flops = count_flops(model, length, labels).training
        except UserError:
            return None
        device = self._model.device
        dtype = DTYPES[self._numerics.precision]
        with torch.no_grad(), spent.on("measuring the device"):
            return flops / (measured_once(dtype, device) * self._numerics.processes)
