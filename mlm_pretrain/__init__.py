"""From raw text to a published, fine-tuned BERT-style encoder, on the Hugging Face stack.

The stages are functions of a `Config`: `check` (what is wrong with it), `train_tokenizer`, `prepare`, `pretrain`,
`evaluate`, `finetune`, `write_cards`, `report`, `push`, and `run_all` for all of them; `predict` applies a fine-tuned
model, `embed` gives vectors of texts, and `MaskingCollator` is the masking alone, for a `Trainer` of your own.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Config": "mlm_pretrain.config",
    "load_config": "mlm_pretrain.config_file",
    "UserError": "mlm_pretrain.errors",
    "RunDirectory": "mlm_pretrain.run",
    "MaskingCollator": "mlm_pretrain.objectives.collator",
    "predict": "mlm_pretrain.tasks.serve.predict",
    "embed": "mlm_pretrain.tasks.serve.embed",
    **dict.fromkeys(
        (
            "check",
            "train_tokenizer",
            "prepare",
            "pretrain",
            "evaluate",
            "finetune",
            "write_cards",
            "report",
            "push",
            "run_all",
        ),
        "mlm_pretrain.stages",
    ),
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that `mlm-pretrain --help` needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mlm_pretrain' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
