"""Where `datasets` keeps what it makes: it wants a folder to write into, even to stream a local file."""

from __future__ import annotations

import os
from pathlib import Path

import datasets

from mlm_pretrain.errors import UserError
from mlm_pretrain.io.cache import VARIABLE, cache_folder


def settle_datasets_cache() -> None:
    """Let `datasets` use our cache folder if it can't write into its own (no home, a shared one that is read-only).

    Raises:
        UserError: that can't be written either.
    """
    if _can_be_written(Path(datasets.config.HF_DATASETS_CACHE)):
        return
    folder = cache_folder() / "datasets"
    if not _can_be_written(folder):
        raise UserError(
            f"{datasets.config.HF_DATASETS_CACHE}: cannot be written, nor can {folder}; point the environment variable "
            f"HF_DATASETS_CACHE or {VARIABLE} to a folder that can"
        )
    datasets.config.HF_DATASETS_CACHE = folder


def _can_be_written(folder: Path) -> bool:
    try:
        folder.expanduser().mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder.expanduser(), os.W_OK | os.X_OK)
