"""How to cite a model, and what it rests on."""

from __future__ import annotations

import re

from mlm_pretrain.escaping import visible
from mlm_pretrain.records.facts import CardFacts
from mlm_pretrain.records.tasks import TaskFacts

MASKED_LM = "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, arXiv:1810.04805"
ARCHITECTURES = {
    "modernbert": "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder, arXiv:2412.13663",
    "roberta": "RoBERTa: A Robustly Optimized BERT Pretraining Approach, arXiv:1907.11692",
    "distilbert": "DistilBERT, a distilled version of BERT, arXiv:1910.01108",
    "deberta-v2": "DeBERTa: Decoding-enhanced BERT with Disentangled Attention, arXiv:2006.03654",
    "albert": "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations, arXiv:1909.11942",
    "electra": "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators, arXiv:2003.10555",
}
MASKINGS = {"span": "SpanBERT: Improving Pre-training by Representing and Predicting Spans, arXiv:1907.10529"}
INITIALISATIONS = {
    "cooccurrence": "Neural Word Embedding as Implicit Matrix Factorization, NIPS, Levy and Goldberg",
}
OPTIMIZERS = {
    "adamw": "Decoupled Weight Decay Regularization (AdamW), arXiv:1711.05101",
    "stable_adamw": "Stable and low-precision training for large-scale vision-language models, arXiv:2304.13013",
    "muon": "Muon is Scalable for LLM Training, arXiv:2502.16982",
}
SCHEDULES = {
    "warmup_stable_decay": "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations, arXiv:2405.18392"
}
CALIBRATION = "On Calibration of Modern Neural Networks (temperature scaling), arXiv:1706.04599"
LORA = "LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685"
FIELDS = ("title", "author", "year", "publisher", "url")


def bibtex(facts: CardFacts, title: str, repository: str | None) -> str:
    """A BibTeX entry: what the config's `publish.citation` says, and otherwise title, year and address as known."""
    known: dict[str, object] = {"title": title}
    if facts.year:
        known["year"] = facts.year
    if repository and "/" in repository:
        known |= {"publisher": "Hugging Face", "url": f"https://huggingface.co/{repository}"}
    fields = {name: _plain(value) for name, value in {**known, **facts.publish.citation}.items()}
    ordered = [*(name for name in FIELDS if name in fields), *(name for name in fields if name not in FIELDS)]
    key = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "model"
    lines = [f"  {name} = {{{fields[name]}}}" for name in ordered]
    return "\n".join([f"@misc{{{key},", ",\n".join(lines), "}"])


def method(facts: CardFacts) -> list[str]:
    """The papers that the pretraining rests on."""
    config, model = facts.config, facts.model
    optimizer = OPTIMIZERS.get(config.training.optim)
    begun = facts.pretraining.initialisation if facts.pretraining else None
    papers = [
        MASKED_LM,
        ARCHITECTURES.get(model.model_type or "") if model else None,
        INITIALISATIONS.get(begun.method or "") if begun else None,
        MASKINGS.get(config.objective.masking),
        optimizer,
        SCHEDULES.get(config.training.lr_scheduler_type),
    ]
    return [paper for paper in papers if paper]


def method_of_task(task: TaskFacts) -> list[str]:
    """The papers that fine-tuning rests on, beside those of the encoder."""
    how = (task.result.encoder if task.result else None) or (task.config.encoder if task.config else None)
    papers = [
        MASKED_LM,
        LORA if how == "lora" else None,
        OPTIMIZERS.get(task.config.optim) if task.config else None,
        CALIBRATION if task.model.calibration_temperature is not None else None,
    ]
    return [paper for paper in papers if paper]


def _plain(value: object) -> str:
    """On one line, and no end of the block of code."""
    return visible(" ".join(str(value).split())).replace("`", "'")
