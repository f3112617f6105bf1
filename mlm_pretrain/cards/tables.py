"""Numbers and tables of a model card: plain rows of text, made from a run's records."""

from __future__ import annotations

from mlm_pretrain.config import OptimizerSection, Ramp
from mlm_pretrain.config.batch_size import BatchSize
from mlm_pretrain.records.facts import CardFacts, Scores, TokenizerFacts
from mlm_pretrain.training.short_rows import row_lengths

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


def spread(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "not measured"
    return f"{mean:.3f} ± {deviation:.3f}" if deviation is not None else f"{mean:.3f}"


def source_rows(facts: CardFacts) -> list[Row]:
    """Documents and megabytes read in training, all epochs counted; documents held out."""
    used = facts.pretraining.sources if facts.pretraining else {}
    held_out = {name: text.held_out for name, text in facts.text.items()}
    return [
        (
            name,
            number(use.documents),
            number(use.bytes and use.bytes / 1e6, 1),
            number(use.tokens),
            number(use.epochs, 2),
            number(held_out.get(name)),
        )
        for name, use in used.items()
    ]


def drop_rows(facts: CardFacts) -> list[Row]:
    used = facts.pretraining.sources if facts.pretraining else {}
    return [(name, reason, number(count)) for name, use in used.items() for reason, count in use.dropped.items()]


def tokenizer_rows(tok: TokenizerFacts) -> list[Row]:
    exact = tok.round_trip_exact
    rows = [
        ("Vocabulary", number(tok.vocab_size)),
        ("Trained on", f"{number(tok.sample_bytes / 1e6, 1)} MB of text") if tok.sample_bytes else None,
        ("Held-out documents", number(tok.documents)) if tok.documents is not None else None,
        ("Held-out tokens", number(tok.tokens)) if tok.tokens is not None else None,
        ("Bytes per token", number(tok.bytes_per_token, 2)),
        ("Tokens per word", number(tok.tokens_per_word, 2)),
        ("Unknown tokens", percent(tok.unknown_rate)),
        ("Texts restored exactly", ("all" if exact else "not all") if isinstance(exact, bool) else percent(exact)),
        ("… before normalisation", percent(tok.round_trip_exact_raw)) if tok.round_trip_exact_raw is not None else None,
        ("Tokens not used there", number(tok.unused)) if tok.unused is not None else None,
    ]
    return [row for row in rows if row]


def architecture_rows(facts: CardFacts) -> list[Row]:
    model = facts.model
    if model is None:
        return []
    rows = [
        ("Class", f"{model.architecture} (stock transformers class, safetensors weights)"),
        ("Parameters", number(facts.pretraining.parameters) if facts.pretraining else "not recorded"),
        ("Layers", number(model.num_hidden_layers)) if model.num_hidden_layers else None,
        ("Hidden size", number(model.hidden_size)) if model.hidden_size else None,
        ("Intermediate size", number(model.intermediate_size)) if model.intermediate_size else None,
        ("Attention heads", number(model.num_attention_heads)) if model.num_attention_heads else None,
        ("Vocabulary", number(model.vocab_size)) if model.vocab_size else None,
        ("Positions", number(model.max_position_embeddings)) if model.max_position_embeddings else None,
    ]
    return [row for row in rows if row]


def speed_rows(facts: CardFacts) -> list[Row]:
    """What the training took; nothing that wasn't recorded."""
    done = facts.pretraining
    if done is None:
        return []
    rows = [
        ("Steps taken", number(done.steps)),
        ("Steps left out for a bad loss", number(done.skipped_steps)) if done.skipped_steps else None,
        ("Tokens seen", number(done.tokens)),
        ("Time", f"{number(done.seconds, 0)} s ({number(done.seconds / 3600, 2)} h)") if done.seconds else None,
        ("Tokens per second", number(done.tokens_per_second, 0)) if done.tokens_per_second else None,
        ("Model FLOPs utilisation", percent(done.mfu)) if done.mfu is not None else None,
    ]
    return [row for row in rows if row]


def hardware_rows(facts: CardFacts) -> list[Row]:
    done = facts.pretraining
    if done is None:
        return []
    rows = [
        ("Device", done.device) if done.device else None,
        ("Processes", number(done.processes)) if done.processes else None,
        ("Precision", done.precision) if done.precision else None,
        ("Attention", done.attention) if done.attention else None,
        ("Compiled layers", "yes" if done.compiled else "no") if done.compiled is not None else None,
    ]
    return [row for row in rows if row]


def impact_rows(facts: CardFacts) -> list[Row]:
    """Of the pretraining; what wasn't measured is said to be so."""
    done = facts.pretraining
    energy = done.energy if done else None
    measured = energy is not None and energy.kwh is not None
    rows: list[Row] = [
        ("Hardware type", done.device if done and done.device else "not recorded"),
        ("Hours used", number(done.seconds / 3600, 2) if done and done.seconds else "not recorded"),
        ("Energy", f"{number(energy.kwh)} kWh" if energy and measured else "not measured"),
        ("Carbon emitted", f"{number(energy.emissions_kg)} kg CO₂eq" if energy and measured else "not measured"),
    ]
    if energy and measured:
        rows += [("Electricity of", energy.country_iso_code or "the world's average"), ("Method", energy.method or "")]
    return rows


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
        ("Sequence length", row_lengths(config).described("tokens")),
        ("Batch size", BatchSize(training.global_batch_size).described("sequences")),
        ("Budget", budget),
        ("Chosen for the budget", _chosen(facts)) if facts.recipe and facts.recipe.values else None,
        *optimizer_rows(training),
        ("Precision", done.precision) if done and done.precision else None,
        ("Seed", str(config.run.seed)),
    ]
    return [row for row in rows if row]


def _chosen(facts: CardFacts) -> str:
    """What the config left open, and for what it was chosen."""
    recipe = facts.recipe
    assert recipe is not None
    keys = ", ".join(key.partition(".")[2] for key in recipe.values)
    model = f" and an encoder of about {number(recipe.parameters / 1e6, 1)} M" if recipe.parameters else ""
    return f"{keys}, for {number((recipe.tokens or 0) / 1e6, 1)} M tokens{model}"


def optimizer_rows(section: OptimizerSection, decay_note: str = "") -> list[Row]:
    warmup = section.warmup_steps
    adam = f", β = ({section.adam_beta1}, {section.adam_beta2}), ε = {section.adam_epsilon}"
    decay = f"weight decay {section.weight_decay}{decay_note}"
    rate = f"{section.learning_rate:g}" if section.learning_rate else "by the encoder's width"
    clipping = f"gradient norm {section.max_grad_norm:g}" if section.max_grad_norm else "none"
    return [
        ("Optimizer", f"{section.optim}{adam if 'adam' in section.optim else ''}, {decay}"),
        ("Learning rate", f"{rate}, {section.lr_scheduler_type}"),
        ("Warmup", f"{warmup:.0%} of the budget" if 0 < warmup < 1 else f"{warmup:,.0f} steps"),
        ("Clipping", clipping),
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
