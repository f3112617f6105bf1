"""A fine-tuned model as its folder tells it: which task it is of, and what it says of examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PretrainedConfig

from mlm_pretrain.config import TaskConfig, fingerprint
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.encoder import load_config, load_model, load_tokenizer, window_length
from mlm_pretrain.models.loading import Checkpoint, Place
from mlm_pretrain.tasks.adapter import TRAINED_TASK, Example, Prediction, TaskAdapter
from mlm_pretrain.tasks.inference.logits import logits_of
from mlm_pretrain.tasks.kinds.registered import TASKS

WEIGHED = (".json", ".safetensors", ".txt", ".model")
"""The files of a folder that make a model another one."""


class FinishedModel:
    """A task's model in use, in evaluation mode on the GPU if there is one."""

    def __init__(
        self, path: Place, max_length: int | None = None, stride: int | None = None, bf16: bool = False
    ) -> None:
        """
        Args:
            path: a folder, or a Hub repository; its architecture tells the task.
            max_length, stride: tokens per window, and those that neighbouring windows share; for tasks that label
                words an eighth by default.
            bf16: compute in bfloat16 autocast.

        Raises:
            UserError: there is no model of any task, or it can't take such windows.
        """
        config = load_config(path)
        self.path = path
        self.task = task_of(config, path)
        tokenizer = load_tokenizer(path, config)
        length = window_length(config, tokenizer, max_length, stride or 0)
        labels = [config.id2label[number] for number in range(config.num_labels)]
        kind = TASKS[self.task]
        if stride is None:
            stride = length // 8 if kind.reads_conll else 0
        self.adapter: TaskAdapter = kind(labels, tokenizer, length, stride)
        self.adapter.take(config)
        self.model = load_model(kind.auto_class, path, config)
        self.model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        self._bf16 = bf16
        self.truncated = 0
        """Texts that were cut so far."""

    def task_config(self, **columns: str | None) -> TaskConfig:
        """The names of the columns, as adapters want them."""
        return TaskConfig(task=self.task, name="predict", **columns)

    def predictions(self, examples: Sequence[Example], batch_size: int) -> list[Prediction]:
        """One an example."""
        if not examples:
            return []
        features = self.adapter.encode(examples)
        self.truncated += sum(feature.get("truncated", False) for feature in features)
        logits = logits_of(self.adapter, self.model, features, batch_size, bf16=self._bf16, name=str(self.path))
        return self.adapter.predictions(examples, features, logits)

    def fingerprint(self) -> str:
        """Another one for another model, other windows, another precision, or another kind of device."""
        files: object = getattr(self.model.config, "_commit_hash", None)
        folder = Checkpoint.of(self.path).folder
        if folder is not None:
            stats = {file.name: file.stat() for file in folder.iterdir() if file.suffix in WEIGHED}
            files = sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items())
        adapter = self.adapter
        return fingerprint(
            str(self.path), files, adapter.max_length, adapter.stride, self._bf16, self.model.device.type
        )


def task_of(config: PretrainedConfig, path: Place) -> str:
    """
    Raises:
        UserError: a model of no task.
    """
    noted = getattr(config, TRAINED_TASK, None)
    if noted in list(TASKS) and any(name.endswith(TASKS[noted].architecture) for name in config.architectures or ()):
        return str(noted)
    for name in TASKS:
        if TASKS[name].serves(config):
            return name
    architecture = (config.architectures or ["no architecture"])[0]
    raise UserError(f"{path}: a {architecture} labels nothing; give a fine-tuned model, as in runs/…/tasks/…")
