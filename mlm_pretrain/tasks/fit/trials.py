"""One training run of a task: from what the task's runs share to scores on disk, and the best model so far."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel

from mlm_pretrain.config import EncoderOrigin, TaskConfig, fingerprint
from mlm_pretrain.console.telemetry import say
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.digests import check_folder
from mlm_pretrain.io.whole import read_json, write_folder, write_json, write_text
from mlm_pretrain.models.encoder import load_model
from mlm_pretrain.models.new import new_model
from mlm_pretrain.runtime.bad_loss import first_not_finite
from mlm_pretrain.tasks.export import export
from mlm_pretrain.tasks.fit.loop import REMEDY, Fit, Progress
from mlm_pretrain.tasks.fit.scoring import Scores
from mlm_pretrain.tasks.fit.setup import Figures, Setup, share_of_train
from mlm_pretrain.tasks.fit.tuning.adaptation import Adaptation, States
from mlm_pretrain.tasks.fit.tuning.choose import adapt

PRETRAINED = "pretrained"


@dataclass(frozen=True)
class Plan:
    """One training run: what is to be done."""

    settings: TaskConfig
    seed: int
    scratch: bool = False
    fraction: float = 1.0
    candidate: bool = False
    """Whether the model may become the exported one."""
    judged: bool = True
    """Whether something is chosen by its score on validation."""

    @property
    def key(self) -> str:
        settings = self.settings.model_dump(mode="json", exclude={"seeds", "sweep", "train_fractions"})
        return fingerprint(settings, self.seed, self.scratch, self.fraction, self.candidate, self.judged)

    @property
    def description(self) -> str:
        origin = " scratch" if self.scratch else ""
        share = f" {self.fraction:.0%} of train" if self.fraction < 1 else ""
        return f"{self.settings.name}{origin}{share} seed {self.seed} lr {self.settings.learning_rate:g}"


@dataclass(frozen=True)
class Run:
    """One training run: what came of it."""

    validation: Figures
    """Empty if nothing is chosen by it."""
    test: Figures
    """Empty if another run was better on validation, and these would not be read."""
    progress: Progress = field(default_factory=Progress)


def run_once(setup: Setup, plan: Plan, rival: float = -math.inf) -> Run:
    """Train once and score; a run that has been made is read.

    Args:
        rival: the best score on validation of the runs from which one is chosen. Without a better one, this run is not
            scored on test, and not kept.
    """
    record = setup.work / f"{plan.key}.json"
    if made := read_json(record):
        return Run(made["validation"], made["test"], Progress(**made["progress"]))
    model = _model(setup, plan)
    adapter, settings, metric = setup.adapter, plan.settings, setup.metric
    origin = EncoderOrigin(path=setup.encoder.path, revision=setup.encoder.revision)
    adaptation = adapt(model, adapter, settings, setup.accelerator, origin, setup.work, _states(setup, plan))
    scores = Scores(setup, adaptation, plan.description)
    depends = settings.keeps_best or settings.early_stopping_patience is not None
    if not depends and not plan.candidate:
        settings = settings.model_copy(update={"eval_strategy": "no"})  # the curve of this run is not shown
    validate = scores.validate if plan.judged or depends else None
    checkpoints = setup.work / plan.key
    train = share_of_train(setup, plan.fraction)
    fit = Fit(setup.accelerator, adapter, adaptation, train, settings, plan.seed, validate, checkpoints)
    progress = fit.run(plan.description)
    if fit.went_back:
        scores.forget()
    validation: Figures = {}
    test: Figures = {}
    if plan.judged:
        if settings.calibrate:
            adapter.calibrate(setup.data.validation, scores.rows("validation"), scores.logits("validation"))
        validation = scores.figures("validation")
    if not plan.judged:
        test = {metric: scores.figures("test")[metric]}  # the others would need a calibration
    elif not validation[metric] <= rival:  # a score that is NaN is better than none
        test = scores.figures("test")
        if plan.candidate:
            _keep_if_best(setup, adaptation, validation[metric], scores.errors)
    run = Run(validation, test, progress)
    write_json(record, asdict(run))
    shutil.rmtree(checkpoints, ignore_errors=True)
    return run


def _model(setup: Setup, plan: Plan) -> PreTrainedModel:
    """The model that a run begins with.

    Raises:
        UserError: the encoder has weights that are not finite.
    """
    # The new head, dropout and random weights are drawn from this.
    torch.manual_seed(plan.seed)
    config = copy.deepcopy(setup.config)
    config.update(plan.settings.config)  # the recipe may have chosen a pooling
    if plan.scratch:
        model = new_model(setup.adapter.auto_class, config, setup.encoder.trust_remote_code)
    else:
        model = load_model(setup.adapter.auto_class, setup.encoder, config)
        if broken := first_not_finite(model.named_parameters()):
            raise UserError(f"{setup.encoder}: its weights {broken} are not finite; take another encoder")
    return model.to(setup.accelerator.device)


def _states(setup: Setup, plan: Plan) -> States:
    """encoder: frozen: what is known of the features by the weights that this run begins with.

    Those of random weights are kept until a run begins with others.
    """
    key = f"random weights {plan.seed}" if plan.scratch else PRETRAINED
    for other in setup.states.keys() - {key, PRETRAINED}:
        del setup.states[other]
    return setup.states.setdefault(key, {})


def _keep_if_best(setup: Setup, adaptation: Adaptation, value: float, score_errors: Callable[[], str]) -> None:
    """Keep the model until the end, if no run before was better on validation."""
    best = read_json(setup.work / "best.json")
    if best and best["value"] >= value:
        return
    errors = score_errors()
    setup.adapter.mark(adaptation.model)
    export(adaptation.save, setup.adapter.tokenizer, setup.work / "best", REMEDY)
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
