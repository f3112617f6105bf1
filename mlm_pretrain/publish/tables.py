"""Numbers and tables of a model card: plain rows of text, made from a run's records."""

from __future__ import annotations

import re

from mlm_pretrain.config import OptimizerSection, Ramp
from mlm_pretrain.publish.facts import CardFacts, Scores, TaskFacts
from mlm_pretrain.stream.batch_size import BatchSize

Row = tuple[str, ...]


def number(value: float | None, digits: int = 3) -> str:
    """A number for readers: thousands set apart, `digits` after the point, small ones in scientific notation."""
    if value is None:
        return "not recorded"
    if isinstance(value, int) or (value == int(value) and abs(value) >= 1):
        return f"{int(value):,}"
    if value != 0 and abs(value) < 10**-digits:
        return f"{value:.{digits}g}"
    return f"{value:,.{digits}f}"


def percent(share: float | None) -> str:
    return "not recorded" if share is None else f"{100 * share:.3g} %"


def cell(text: object) -> str:
    """Text that may stand in a Markdown table: one line, its bars escaped."""
    return " ".join(str(text).split()).replace("|", "\\|")


def code(text: object) -> str:
    """Text as a Markdown code span in a table; longer fences where it holds backticks itself."""
    shown = cell(text) or " "
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _spread(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "not measured"
    return f"{mean:.3f} ± {deviation:.3f}" if deviation is not None else f"{mean:.3f}"


def source_rows(facts: CardFacts) -> list[Row]:
    used = facts.pretraining.sources if facts.pretraining else {}
    return [
        (name, number(use.documents), number(use.bytes and use.bytes / 1e6, 1), number(use.epochs, 2))
        for name, use in used.items()
    ]


def drop_rows(facts: CardFacts) -> list[Row]:
    used = facts.pretraining.sources if facts.pretraining else {}
    return [(name, reason, number(count)) for name, use in used.items() for reason, count in use.dropped.items()]


def recipe_rows(facts: CardFacts) -> list[Row]:
    config, training, objective = facts.config, facts.config.training, facts.config.objective
    rate = objective.mlm_probability
    shown_rate = f"{rate.start} → {rate.end} over {rate.steps:,} steps" if isinstance(rate, Ramp) else str(rate)
    kept = round(1 - objective.mask_replace_prob - objective.random_replace_prob, 6)
    budget = next((f"{value:,} {key}" for key, value in training.budget.model_dump(exclude_none=True).items()), "")
    done = facts.pretraining
    rows: list[Row | None] = [
        (
            "Objective",
            f"{objective.name}, mask rate {shown_rate}, chosen by {objective.masking.replace('_', ' ')}",
        ),
        (
            "Masked tokens become",
            f"mask {objective.mask_replace_prob:.0%}, random {objective.random_replace_prob:.0%}, kept {kept:.0%}",
        ),
        ("Sequence length", f"{config.stream.sequence_length:,} tokens"),
        ("Batch size", str(BatchSize(training.global_batch_size))),
        ("Budget", budget),
        ("Steps taken", number(done.steps)) if done else None,
        ("Tokens seen", number(done.tokens)) if done else None,
        *_optimizer_rows(training),
        ("Precision", done.precision) if done and done.precision else None,
        ("Seed", str(config.run.seed)),
        ("Device", done.device) if done and done.device else None,
        ("Time", f"{number(done.seconds, 0)} s") if done and done.seconds is not None else None,
        ("Tokens per second", number(done.tokens_per_second, 0)) if done and done.tokens_per_second else None,
    ]
    return [row for row in rows if row]


def _optimizer_rows(section: OptimizerSection) -> list[Row]:
    warmup = section.warmup_steps
    adam = f", β = ({section.adam_beta1}, {section.adam_beta2}), ε = {section.adam_epsilon}"
    clipping = f"gradient norm {section.max_grad_norm:g}" if section.max_grad_norm else "none"
    return [
        (
            "Optimizer",
            f"{section.optim}{adam if 'adam' in section.optim else ''}, weight decay {section.weight_decay}",
        ),
        ("Learning rate", f"{section.learning_rate:g}, {section.lr_scheduler_type}"),
        ("Warmup", f"{warmup:.0%} of the budget" if 0 < warmup < 1 else f"{warmup:,.0f} steps"),
        ("Clipping", clipping),
    ]


def task_recipe_rows(task: TaskFacts) -> list[Row]:
    config, result = task.config, task.result
    if config is None:
        return []
    if result is not None and result.learning_rate is not None:
        config = config.model_copy(update={"learning_rate": result.learning_rate})
    length = f"{config.max_steps:,} steps" if config.max_steps else f"{config.num_train_epochs:g} epochs"
    seeds = result.seeds if result and result.seeds else config.seeds
    return [
        ("Length", length),
        ("Batch size", str(config.per_device_train_batch_size)),
        *_optimizer_rows(config),
        ("Seeds", ", ".join(str(seed) for seed in seeds)),
    ]


def score_rows(facts: CardFacts) -> list[Row]:
    if facts.heldout is None:
        return []
    by_source = facts.heldout.by_source if len(facts.heldout.by_source) > 1 else {}
    rows: dict[str, Scores] = {"all": facts.heldout, **by_source}
    return [
        (
            name,
            number(scores.loss),
            number(scores.perplexity, 1),
            number(scores.accuracy),
            number(scores.top5_accuracy),
        )
        for name, scores in rows.items()
    ]


def task_rows(facts: CardFacts, only: str | None = None) -> list[Row]:
    return [
        (
            name,
            result.metric or "not recorded",
            _spread(result.pretrained, result.pretrained_std if len(result.seeds) > 1 else None),
            _spread(result.scratch, result.scratch_std if len(result.seeds) > 1 else None),
            _spread(result.majority, None),
            number(result.train_examples),
            number(result.test_examples) + (" (validation)" if result.test_is_validation else ""),
        )
        for name, result in facts.measured.items()
        if only in (None, name)
    ]
