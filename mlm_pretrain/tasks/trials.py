"""One training run of a task: from what the task's runs share to scores on disk, and the best model so far."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from mlm_pretrain.config import EncoderOrigin, TaskConfig, fingerprint
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.digests import check_folder
from mlm_pretrain.io.plain_json import dumps
from mlm_pretrain.io.whole import read_json, write_folder, write_json, write_text
from mlm_pretrain.models.loading import Checkpoint, new_model, quiet
from mlm_pretrain.tasks.adaptation import Adaptation, adapt
from mlm_pretrain.tasks.adapter import Feature, TaskAdapter
from mlm_pretrain.tasks.data import LabelledData, first_examples
from mlm_pretrain.tasks.encoder import (
    load_config,
    load_model,
    load_tokenizer,
    window_length,
)
from mlm_pretrain.tasks.fit import REMEDY, Fit, Progress
from mlm_pretrain.tasks.inference import logits_of
from mlm_pretrain.tasks.materials import Materials, read_materials
from mlm_pretrain.tasks.sentence_files import read_recipe
from mlm_pretrain.tasks.sentence_vectors import Recipe, follow, lower
from mlm_pretrain.tasks.sequence import SequenceTask
from mlm_pretrain.telemetry import say, warn, world_size
from mlm_pretrain.training.bad_loss import Diverged, first_not_finite, first_not_finite_in
from mlm_pretrain.training.device import make_accelerator

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
    states: dict[int, object] = field(default_factory=dict)
    """encoder: frozen: the features of all rows so far, which don't depend on the seed."""


@dataclass(frozen=True)
class Plan:
    """One training run: what is to be done."""

    settings: TaskConfig
    seed: int
    scratch: bool = False
    fraction: float = 1.0
    candidate: bool = False
    """Whether the model may become the exported one."""

    @property
    def key(self) -> str:
        settings = self.settings.model_dump(mode="json", exclude={"seeds", "sweep", "train_fractions"})
        # A candidate that was tried in a sweep before is trained again: that time, its model is kept.
        return fingerprint(settings, self.seed, self.scratch, self.fraction, self.candidate)

    @property
    def description(self) -> str:
        origin = " scratch" if self.scratch else ""
        share = f" {self.fraction:.0%} of train" if self.fraction < 1 else ""
        return f"{self.settings.name}{origin}{share} seed {self.seed} lr {self.settings.learning_rate:g}"


@dataclass(frozen=True)
class Run:
    """One training run: what came of it."""

    validation: Figures
    test: Figures
    progress: Progress = field(default_factory=Progress)


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


def share_of_train(setup: Setup, fraction: float) -> list[Feature]:
    """The rows of a share of the training set."""
    train = setup.data.train
    if fraction == 1.0:
        return setup.features["train"]
    chosen = first_examples(train, max(round(fraction * len(train)), 1), type(setup.adapter))
    places = {id(example) for example in chosen}
    return [row for row in setup.features["train"] if id(train[row["example"]]) in places]


def run_once(setup: Setup, plan: Plan) -> Run:
    """Train once and score on validation and test; a run that has been made is read."""
    record = setup.work / f"{plan.key}.json"
    if made := read_json(record):
        return Run(made["validation"], made["test"], Progress(**made["progress"]))
    # The new head, dropout and random weights are drawn from this.
    torch.manual_seed(plan.seed)
    if plan.scratch:
        model = new_model(setup.adapter.auto_class, setup.config, setup.encoder.trust_remote_code)
    else:
        model = load_model(setup.adapter.auto_class, setup.encoder, setup.config)
        if broken := first_not_finite(model.named_parameters()):
            raise UserError(f"{setup.encoder}: its weights {broken} are not finite; take another encoder")
    model.to(setup.accelerator.device)
    adapter = setup.adapter
    origin = EncoderOrigin(path=setup.encoder.path, revision=setup.encoder.revision)
    states = {} if plan.scratch else setup.states
    adaptation = adapt(model, adapter, plan.settings, setup.accelerator, origin, setup.work, states)
    rows = {
        name: adaptation.rows(setup.features[name])
        for name in (("validation",) if setup.data.test_is_validation else ("validation", "test"))
    }
    checkpoints = setup.work / plan.key

    def logits(split: str) -> list[np.ndarray]:
        size = setup.task.per_device_eval_batch_size
        return logits_of(adapter, adaptation.model, rows[split], size, setup.accelerator, name=plan.description)

    def score(split: str) -> Figures:
        examples = getattr(setup.data, split)
        return adapter.metrics(examples, adapter.predictions(examples, rows[split], logits(split)))

    def validate() -> float:
        return score("validation")[setup.metric]

    train = share_of_train(setup, plan.fraction)
    fit = Fit(setup.accelerator, adapter, adaptation, train, plan.settings, plan.seed, validate, checkpoints)
    progress = fit.run(plan.description)
    if plan.settings.calibrate:
        adapter.calibrate(setup.data.validation, rows["validation"], logits("validation"))
    validation = score("validation")
    test = validation if setup.data.test_is_validation else score("test")
    run = Run(validation, test, progress)
    if plan.candidate:
        _keep_if_best(setup, adaptation, validation[setup.metric], score_errors=lambda: _errors(setup, rows, logits))
    write_json(record, asdict(run))
    shutil.rmtree(checkpoints, ignore_errors=True)
    return run


def _errors(setup: Setup, rows: dict[str, Any], logits: Callable[[str], list[np.ndarray]]) -> str:
    """The mistakes on the test set as lines of JSON."""
    split = "validation" if setup.data.test_is_validation else "test"
    examples = getattr(setup.data, split)
    predictions = setup.adapter.predictions(examples, rows[split], logits(split))
    found = setup.adapter.errors(examples, predictions)
    return "".join(dumps(error) + "\n" for error in found)


def _keep_if_best(setup: Setup, adaptation: Adaptation, value: float, score_errors: Callable[[], str]) -> None:
    """Keep the model until the end, if no seed before was better on validation."""
    best = read_json(setup.work / "best.json")
    if best and best["value"] >= value:
        return
    errors = score_errors()
    setup.adapter.mark(adaptation.model)
    export(adaptation.save, setup.adapter.tokenizer, setup.work / "best")
    write_text(setup.work / "errors.jsonl", errors)
    write_json(setup.work / "best.json", {"value": value})


# -- on disk ------------------------------------------------------------------------------------------------------


def open_work(out: Path, identity: str | None) -> Path:
    """The folder for what is not finished; emptied unless it is of the same data, encoder and recipe."""
    work = out.with_name(f".{out.name}.work")
    if identity is None or read_json(work / "identity.json").get("identity") != identity:
        shutil.rmtree(work, ignore_errors=True)
    elif any(work.glob("*.json")):
        say(f"{out.name}: going on with what stands in {work}")
    try:
        write_json(work / "identity.json", {"identity": identity})
    except OSError as error:
        raise UserError(f"{out}: can't write there: {error.strerror or error}") from None
    return work


def export_best(setup: Setup, out: Path) -> None:
    best = setup.work / "best"

    def fill(folder: Path) -> None:
        shutil.copytree(best, folder, dirs_exist_ok=True)

    check_folder(best, "`mlm-pretrain finetune --force` trains again")
    try:
        write_folder(out, fill, manifest=True)
        write_text(out.with_name(f"{out.name}.errors.jsonl"), (setup.work / "errors.jsonl").read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{out}: can't write the model: {error.strerror or error}") from None
    shutil.rmtree(setup.work)


def export(save: Callable[[Path], Any], tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Write model and tokenizer into a folder, whole or not at all; what stood there is replaced.

    Args:
        save: writes the model into a folder, as `save_pretrained` does.

    Raises:
        UserError: the folder can't be written.
    """

    def fill(folder: Path) -> None:
        with quiet():
            save(folder)
            tokenizer.save_pretrained(folder)
        if broken := first_not_finite_in(folder):
            raise Diverged(f"{out}: the weights {broken} are not finite, and are not kept; {REMEDY}")

    try:
        write_folder(out, fill, manifest=True)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{out}: can't write the model: {getattr(error, 'strerror', None) or error}") from None
