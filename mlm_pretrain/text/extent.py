"""How much text there is, and how often a budget reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlm_pretrain.config import SourceConfig, TextConfig
from mlm_pretrain.io.files.formats import COMPRESSIONS
from mlm_pretrain.io.whole import read_json
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.text.files.listing import find_files
from mlm_pretrain.text.mixture import source_names

ASSUMED_BYTES_PER_TOKEN = 4.0
"""Where no tokenizer has been tried on the text: an assumption, no measurement."""


@dataclass(frozen=True)
class Extent:
    """A source's text to train on; `bytes` and `epochs` are None if nobody knows how much there is."""

    name: str
    bytes: float | None
    origin: str
    """How that is known, or why not."""
    epochs: float | None


def bytes_per_token(run: RunDirectory, trained: dict[str, Any]) -> tuple[float, str]:
    """Bytes of text that a token stands for, and how that is known.

    Args:
        trained: the run's figures of its pretraining, where it has some.
    """
    read = [source for source in trained.get("sources", {}).values() if source.get("bytes") and source.get("tokens")]
    if read:
        return sum(each["bytes"] for each in read) / sum(each["tokens"] for each in read), "of what this run has read"
    if known := read_json(run.tokenizer_report).get("bytes_per_token"):
        return float(known), "the run's tokenizer on held-out text"
    return ASSUMED_BYTES_PER_TOKEN, "assumed, not measured"


def extents(text: TextConfig, run: RunDirectory, budget: float) -> list[Extent]:
    """How much there is of each source, and how often it is read.

    Args:
        budget: bytes of text that are read, of all sources by their weights.

    Raises:
        UserError: files aren't there, or two sources go by one name.
    """
    surveyed = run.read_results().get("text", {})
    weights = sum(source.weight for source in text.sources)
    found = []
    for name, source in zip(source_names(text), text.sources, strict=True):
        size, origin = _size(source, surveyed.get(name, {}), text.validation_fraction)
        found.append(Extent(name, size, origin, budget * source.weight / weights / size if size else None))
    return found


def _size(source: SourceConfig, surveyed: dict[str, Any], held_out: float) -> tuple[float | None, str]:
    if surveyed.get("complete") and surveyed.get("training_bytes"):
        return float(surveyed["training_bytes"]), "read whole"
    if source.source == "files":
        files = [Path(file) for file in find_files(source.path)]
        packed = any(file.suffix in {*COMPRESSIONS, ".parquet"} for file in files)
        origin = "file sizes; compressed files hold more" if packed else "file sizes"
        return sum(file.stat().st_size for file in files) * (1 - held_out), origin
    return None, "its size isn't known before it has been read whole"
