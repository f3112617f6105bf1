"""What all training runs of one task share: data, rows, the encoder's config, the device."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.console.telemetry import say, warn, world_size
from mlm_pretrain.errors import UserError
from mlm_pretrain.hardware.device import make_accelerator
from mlm_pretrain.io.whole import read_json, write_json
from mlm_pretrain.models.encoder import load_config, load_tokenizer, window_length
from mlm_pretrain.models.loading import Checkpoint
from mlm_pretrain.tasks.adapter import Example, Feature, TaskAdapter
from mlm_pretrain.tasks.data.materials import Materials, read_materials
from mlm_pretrain.tasks.data.splits import LabelledData, first_examples
from mlm_pretrain.tasks.fit.tuning.adaptation import States
from mlm_pretrain.tasks.inference.sentence_files import read_recipe
from mlm_pretrain.tasks.inference.sentence_vectors import Recipe, follow, lower
from mlm_pretrain.tasks.kinds.sequence import SequenceTask

Figures = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """What all runs of one task share; texts are tokenised once."""

    task: TaskConfig
    encoder: Checkpoint
    config: PretrainedConfig
    adapter: TaskAdapter
    data: LabelledData
    features: dict[str, list[Feature]]
    accelerator: Accelerator
    work: Path
    """What runs have come to, until all are done."""
    metric: str
    dropped: dict[str, dict[str, int]]
    """By split and reason, the rows that couldn't be used."""
    states: dict[str, States] = field(default_factory=dict)
    """encoder: frozen: by the weights of the encoder, the features of all rows so far."""


def prepare(task: TaskConfig, encoder: Checkpoint, held_out_fraction: float, work: Path) -> Setup:
    if world_size() > 1:
        raise UserError("finetune: runs on one process for now; start it without accelerate launch")
    encoder.check()
    materials = read_materials(task, held_out_fraction)
    data = materials.data
    if data.test_is_validation:
        say(f"{task.name}: no test set, so the scores are those on validation")
    config, adapter = make_adapter(task, encoder, materials)
    adapter.learn(data.train)
    features = {"train": adapter.encode(data.train), "validation": adapter.encode(data.validation)}
    features["test"] = features["validation"] if data.test_is_validation else adapter.encode(data.test)
    accelerator, metric, dropped = _accelerator(work, task), materials.metric, materials.dropped
    return Setup(task, encoder, config, adapter, data, features, accelerator, work, metric, dropped)


def make_adapter(task: TaskConfig, encoder: Checkpoint, materials: Materials) -> tuple[PretrainedConfig, TaskAdapter]:
    """The config that the encoder will have with the task's head, and the task by its tokenizer.

    Raises:
        UserError: there is no such checkpoint, or it doesn't suit the task.
    """
    kind = materials.adapter
    config = load_config(encoder, materials.labels, kind.problem_type, task.config)
    tokenizer = load_tokenizer(encoder, config)
    length = window_length(config, tokenizer, task.max_length, task.stride)
    if task.encoder == "frozen" and issubclass(kind, SequenceTask) and (recipe := read_recipe(encoder)):
        length = _as_its_vectors(task, encoder, recipe, config, tokenizer, length)
    return config, kind(materials.labels, tokenizer, length, task.stride, task)


def _as_its_vectors(
    task: TaskConfig,
    encoder: Checkpoint,
    recipe: Recipe,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
) -> int:
    """Make a probe's features as the checkpoint's sentence vectors are made, as far as its architecture can.

    Returns:
        Tokens of a text: as the checkpoint says, unless the task does.
    """
    note = follow(config, recipe) if "classifier_pooling" not in task.config else None
    if note:
        warn(f"task '{task.name}': encoder: frozen: {encoder}: {note}")
    if recipe.lower_case:
        lower(tokenizer)
    return min(length, recipe.max_length) if recipe.max_length and task.max_length is None else length


def _accelerator(work: Path, task: TaskConfig) -> Accelerator:
    """In the precision that this fine-tuning was begun in: `bf16: auto` is measured once."""
    record = work / "precision.json"
    accelerator = make_accelerator(task, read_json(record).get("precision"))
    write_json(record, {"precision": accelerator.mixed_precision})
    return accelerator


def examples_of_share(setup: Setup, fraction: float) -> list[Example]:
    """The examples of a share of the training set."""
    train = setup.data.train
    return first_examples(train, max(round(fraction * len(train)), 1), type(setup.adapter))


def share_of_train(setup: Setup, fraction: float) -> list[Feature]:
    """Their rows."""
    train = setup.data.train
    if fraction == 1.0:
        return setup.features["train"]
    places = {id(example) for example in examples_of_share(setup, fraction)}
    return [row for row in setup.features["train"] if id(train[row["example"]]) in places]
