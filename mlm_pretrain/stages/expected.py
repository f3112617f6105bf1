"""What each stage will take, by what it took on this machine before; for the time left that progress shows."""

from __future__ import annotations

from typing import Any

from mlm_pretrain.config import Config, fingerprint
from mlm_pretrain.io.remembered import recall, remember

KIND = "stages"


def expected_seconds(config: Config) -> dict[str, float | None]:
    """By stage, in the order of `run`; None if it hasn't been done here, with these settings."""
    minutes = config.training.budget.minutes
    return {
        stage: 60 * minutes if stage == "pretrain" and minutes else _recalled(of)
        for stage, of in _settings(config).items()
    }


def note_seconds(config: Config, stage: str, seconds: float) -> None:
    """Remember what a stage took that was done from its beginning."""
    if of := _settings(config).get(stage):
        remember(KIND, of, {"seconds": round(seconds, 1)})


def _recalled(of: dict[str, Any]) -> float | None:
    seconds = recall(KIND, of).get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else None


def _settings(config: Config) -> dict[str, dict[str, Any]]:
    """By stage, what its time depends on most; another seed takes as long."""
    import torch

    from mlm_pretrain.hardware.device import machine

    text, model = fingerprint(config.text, config.tokenizer), fingerprint(config.model, config.stream)
    training = config.training.model_copy(update={"report_to": []})
    stages = {
        "tokenizer": text,
        "pretrain": fingerprint(text, model, training, config.objective),
        "evaluate": fingerprint(text, model, config.evaluation),
        **{f"finetune {task.name}": fingerprint(text, model, task) for task in config.tasks},
    }
    here = machine(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return {stage: {"machine": here, "stage": stage, "settings": settings} for stage, settings in stages.items()}
