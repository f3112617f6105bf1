"""The Hugging Face recipes for tasks, run_glue.py and run_ner.py, as one would set them up oneself.

`transformers.Trainer` with `DataCollatorWithPadding` or `DataCollatorForTokenClassification`, batches in random order,
padded to their longest row; of a word only the first token is labelled; long rows are cut.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import seqeval.metrics
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.runtime.loss import IGNORE_INDEX
from mlm_pretrain.tasks.adapter import Example
from mlm_pretrain.tasks.data.splits import LabelledData


class _Watch(TrainerCallback):
    """The time between the begin of the first step and the end of the last."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **keys: Any) -> None:
        self.began = self.began or time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **keys: Any) -> None:
        self.ended = time.perf_counter()


def trainer_on_task(
    task: TaskConfig, data: LabelledData, labels: list[str], path: Path, length: int, bf16: bool
) -> tuple[float, float]:
    """Fine-tune with the task's first seed; (accuracy or entity-level F1 on the test set, examples a second)."""
    is_ner = task.task == "ner"
    # Words are tokenised one by one: each begins with the blank that it has in a text.
    tokenizer = AutoTokenizer.from_pretrained(path, **({"add_prefix_space": True} if is_ner else {}))
    rows = _words if is_ner else _texts
    train, test = (rows(examples, tokenizer, labels, length) for examples in (data.train, data.test))
    collator = (DataCollatorForTokenClassification if is_ner else DataCollatorWithPadding)(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=task.num_train_epochs,
            learning_rate=task.learning_rate,
            warmup_steps=task.warmup_steps,
            per_device_train_batch_size=task.per_device_train_batch_size,
            per_device_eval_batch_size=task.per_device_eval_batch_size,
            bf16=bf16,
            seed=task.seeds[0],
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        torch.manual_seed(task.seeds[0])
        auto = AutoModelForTokenClassification if is_ner else AutoModelForSequenceClassification
        model = auto.from_pretrained(
            path, id2label=dict(enumerate(labels)), label2id={name: number for number, name in enumerate(labels)}
        )
        watch = _Watch()
        trainer = Trainer(model, arguments, train_dataset=train, data_collator=collator, callbacks=[watch])
        trainer.train()
        logits = trainer.predict(test).predictions
    speed = len(data.train) * task.num_train_epochs / (watch.ended - watch.began)
    return (_entity_f1 if is_ner else _accuracy)(logits, test["labels"], labels), speed


def _texts(examples: Sequence[Example], tokenizer: Any, labels: list[str], length: int) -> datasets.Dataset:
    encoded = tokenizer([example["text"] for example in examples], truncation=True, max_length=length)
    numbers = {name: number for number, name in enumerate(labels)}
    return datasets.Dataset.from_dict({**encoded, "labels": [numbers[example["label"]] for example in examples]})


def _words(examples: Sequence[Example], tokenizer: Any, labels: list[str], length: int) -> datasets.Dataset:
    words = [example["tokens"] for example in examples]
    encoded = tokenizer(words, truncation=True, max_length=length, is_split_into_words=True)
    numbers = {name: number for number, name in enumerate(labels)}
    rows = []
    for row, example in enumerate(examples):
        tags, last = [], None
        for word in encoded.word_ids(row):
            first = word is not None and word != last
            tags.append(numbers[example["tags"][word]] if first else IGNORE_INDEX)
            last = word
        rows.append(tags)
    return datasets.Dataset.from_dict({**encoded, "labels": rows})


def _accuracy(logits: np.ndarray, gold: Sequence[int], labels: list[str]) -> float:
    return float((logits.argmax(-1) == np.asarray(gold)).mean())


def _entity_f1(logits: np.ndarray, gold: Sequence[Sequence[int]], labels: list[str]) -> float:
    """As run_ner.py computes it: over the words that a row has room for."""
    predicted, true = [], []
    for row, tags in zip(logits.argmax(-1), gold, strict=True):
        kept = [position for position, tag in enumerate(tags) if tag != IGNORE_INDEX]
        predicted.append([labels[row[position]] for position in kept])
        true.append([labels[tags[position]] for position in kept])
    return float(seqeval.metrics.f1_score(true, predicted, zero_division=0))
