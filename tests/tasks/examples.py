"""The examples of one labelled file, as a task of any kind reads them."""

from __future__ import annotations

from pathlib import Path

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.tasks.adapter import Example, TaskAdapter
from mlm_pretrain.tasks.data.examples import Examples
from mlm_pretrain.tasks.data.readers import read_rows
from mlm_pretrain.tasks.labels.names import label_columns


def read_examples(file: str | Path, adapter: type[TaskAdapter], task: TaskConfig) -> list[Example]:
    examples = Examples(adapter, task)
    examples.read("data", read_rows(file, task, adapter.reads_conll, label_columns(task, adapter.label_key)), str(file))
    examples.settle()
    return examples.splits["data"]
