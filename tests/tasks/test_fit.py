"""The training loop: interruptions change nothing, the best weights are kept, evaluations come when they should."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from mlm_pretrain.config import EncoderOrigin, TaskConfig
from mlm_pretrain.hardware.device import make_accelerator
from mlm_pretrain.runtime.interrupts import Interrupted
from mlm_pretrain.tasks.fit.loop import Fit, batches_from
from mlm_pretrain.tasks.fit.tuning.choose import adapt
from mlm_pretrain.tasks.inference.logits import logits_of
from mlm_pretrain.tasks.kinds.registered import TASKS
from tests.tasks.conftest import separable_texts

Score = Callable[["Toy"], float]


NOT_ASKED: Score = lambda _: 0.0  # noqa: E731 (a mark)
"""Of a training whose score nobody asks for."""


class Killed(BaseException):
    """Nothing catches this."""


class Toy:
    """A model with dropout, in training on 22 rows in batches of 4: six steps an epoch."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        accelerator: Accelerator,
        score: Score | None = None,
        folder: Path | None = None,
        **keys: Any,
    ) -> None:
        self.settings = recipe(**{"eval_strategy": "epoch", **keys})
        self.adapter = TASKS["classification"](["bad", "good"], tokenizer, 32, 0, self.settings)
        self.rows = self.adapter.encode(separable_texts(22, seed=0))
        torch.manual_seed(5)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
        model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **sizes))
        adaptation = adapt(model, self.adapter, self.settings, accelerator, EncoderOrigin(path="x"), Path())
        self.model = adaptation.model
        self.inputs = adaptation.rows(self.rows)
        self.accelerator = accelerator
        self.fit = Fit(
            accelerator,
            self.adapter,
            adaptation,
            self.rows,
            self.settings,
            7,
            None if score is NOT_ASKED else lambda: (score or Toy.certainty)(self),
            folder,
        )

    def certainty(self) -> float:
        """The mean logit of the first class: a number that tells of every bit of the weights."""
        return float(sum(row[0] for row in logits_of(self.adapter, self.model, self.inputs, 8, self.accelerator)))

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def run(self, until: int | None = None) -> dict[str, Any]:
        """Train, up to the death in the step after `until`; the progress, without what a clock says."""
        if until is not None:
            loss = self.adapter.loss

            def dying(*args: Any) -> Any:
                if self.fit.progress.step == until:
                    raise Killed
                return loss(*args)

            self.adapter.loss = dying  # type: ignore[method-assign]
        progress = asdict(self.fit.run("toy"))
        return {name: value for name, value in progress.items() if name != "seconds"}


def recipe(**keys: Any) -> TaskConfig:
    base = {"num_train_epochs": 3, "per_device_train_batch_size": 4, "learning_rate": 3e-3, "bf16": False}
    return TaskConfig(task="classification", name="toy", **{**base, **keys})


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return make_accelerator(recipe())


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


# -- interruptions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"eval_strategy": "steps", "eval_steps": 5, "load_best_model_at_end": False},
        {"encoder": "lora", "lora": {"lora_dropout": 0.1}},
        {"encoder": "frozen"},
        {"layerwise_lr_decay": 0.8, "optim": "stable_adamw"},
        {"optim": "muon"},
    ],
    ids=lambda keys: "-".join(map(str, keys)) or "plain",
)
def test_an_interrupted_training_ends_with_the_same_bits(
    keys: dict[str, Any], bpe: PreTrainedTokenizerFast, accelerator: Accelerator, tmp_path: Path
) -> None:
    whole = Toy(bpe, accelerator, **keys)
    expected = whole.run()
    assert len({entry["validation"] for entry in expected["history"]}) == len(expected["history"]) > 2
    for until in (5, 10, 15):  # before, at and after the ends of epochs; twice from one folder
        with pytest.raises(Killed):
            Toy(bpe, accelerator, folder=tmp_path, save_steps=4, **keys).run(until)
        torch.rand(3)
    resumed = Toy(bpe, accelerator, folder=tmp_path, save_steps=4, **keys)
    assert resumed.fit.progress.step == 12
    assert resumed.run() == expected
    assert same(resumed.weights(), whole.weights())


@pytest.mark.parametrize(("place", "step"), [("step", 7), ("evaluation", 12), ("evaluation", 18)])
def test_a_signal_stops_behind_a_checkpoint(
    place: str, step: int, bpe: PreTrainedTokenizerFast, accelerator: Accelerator, tmp_path: Path
) -> None:
    whole = Toy(bpe, accelerator)
    expected = whole.run()

    def ask(toy: Toy, where: str) -> None:
        if (where, toy.fit.progress.step + (where == "step")) == (place, step):
            os.kill(os.getpid(), signal.SIGTERM)

    def score(toy: Toy) -> float:
        ask(toy, "evaluation")
        return toy.certainty()

    stopped = Toy(bpe, accelerator, score, tmp_path)
    loss = stopped.adapter.loss

    def asking(*args: Any) -> Any:
        ask(stopped, "step")
        return loss(*args)

    stopped.adapter.loss = asking  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match=f"toy: stopped after step {step} .SIGTERM.") as stop:
        stopped.run()
    assert stop.value.exit_code == 143
    resumed = Toy(bpe, accelerator, folder=tmp_path)
    assert resumed.fit.progress.step == step
    assert resumed.run() == expected
    assert same(resumed.weights(), whole.weights())


def test_without_dropout_states_the_resume_would_differ(
    bpe: PreTrainedTokenizerFast, accelerator: Accelerator, tmp_path: Path
) -> None:
    """The proof above is one: other random numbers after the resume give other weights."""
    whole = Toy(bpe, accelerator)
    whole.run()
    with pytest.raises(Killed):
        Toy(bpe, accelerator, folder=tmp_path, save_steps=4).run(9)
    resumed = Toy(bpe, accelerator, folder=tmp_path, save_steps=4)
    torch.manual_seed(0)
    resumed.run()
    assert not same(resumed.weights(), whole.weights())


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 30), st.integers(1, 4))
def test_batches_go_on_where_they_were(count: int, size: int, step: int, pool: int) -> None:
    features = [{"input_ids": [0] * (1 + 7 * number % 13), "number": number} for number in range(count)]
    whole = list(islice(batches_from(features, size, seed=1, pool=pool), step + 5))
    assert list(islice(batches_from(features, size, seed=1, step=step, pool=pool), 5)) == whole[step:]


# -- evaluations --------------------------------------------------------------------------------------------------


def scripted(values: list[float], seen: list[dict[str, torch.Tensor]]) -> Score:
    """Scores in this order, and the weights that stood at each."""
    coming: Iterator[float] = iter(values)

    def score(toy: Toy) -> float:
        seen.append(toy.weights())
        return next(coming)

    return score


@pytest.mark.parametrize("values", [[0.3, 0.1, 0.2], [0.1, 0.5, 0.5], [0.1, 0.2, 0.3]])
def test_the_weights_at_the_end_are_those_of_the_best_evaluation(
    values: list[float], bpe: PreTrainedTokenizerFast, accelerator: Accelerator
) -> None:
    for load_best in (True, False):
        seen: list[dict[str, torch.Tensor]] = []
        toy = Toy(bpe, accelerator, scripted(values, seen), load_best_model_at_end=load_best)
        progress = toy.run()
        assert [entry["validation"] for entry in progress["history"]] == values
        best = values.index(max(values))
        assert progress["best"] == best
        chosen = best if load_best else 2
        assert [same(toy.weights(), weights) for weights in seen] == [number == chosen for number in range(3)]


@pytest.mark.parametrize("load_best", [True, False])
def test_training_stops_where_patience_ends(
    load_best: bool, bpe: PreTrainedTokenizerFast, accelerator: Accelerator
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    score = scripted([0.1, 0.5, 0.4, 0.5, 0.9, 0.9, 0.9], seen)
    keys = {"early_stopping_patience": 2, "num_train_epochs": 7, "load_best_model_at_end": load_best}
    toy = Toy(bpe, accelerator, score, **keys)
    progress = toy.run()
    # As good as the best is no better.
    assert [entry["epoch"] for entry in progress["history"]] == [1.0, 2.0, 3.0, 4.0]
    assert progress["step"] == 24
    assert same(toy.weights(), seen[1 if load_best else 3])


@pytest.mark.parametrize(
    ("keys", "steps"),
    [
        ({"eval_strategy": "epoch"}, [6, 12, 18]),
        ({"eval_strategy": "epoch", "max_steps": 8}, [6, 8]),
        ({"eval_strategy": "epoch", "num_train_epochs": 0.5}, [3]),
        ({"eval_strategy": "steps", "eval_steps": 7}, [7, 14, 18]),
        ({"eval_strategy": "steps", "eval_steps": 9}, [9, 18]),
        ({"eval_strategy": "steps", "eval_steps": 100}, [18]),
    ],
    ids=str,
)
def test_evaluations_come_when_they_should(
    keys: dict[str, Any], steps: list[int], bpe: PreTrainedTokenizerFast, accelerator: Accelerator
) -> None:
    progress = Toy(bpe, accelerator, lambda _: 0.0, **keys).run()
    assert [entry["step"] for entry in progress["history"]] == steps
    assert progress["step"] == steps[-1]
    assert all(entry["loss"] > 0 for entry in progress["history"])


@pytest.mark.parametrize("asked", [True, False])
def test_without_evaluations_the_losses_are_noted_and_the_end_is_scored_if_anybody_asks(
    asked: bool, bpe: PreTrainedTokenizerFast, accelerator: Accelerator
) -> None:
    often = Toy(bpe, accelerator)
    expected = often.run()["history"]
    seen: list[dict[str, torch.Tensor]] = []
    seldom = Toy(bpe, accelerator, scripted([0.4], seen) if asked else NOT_ASKED, eval_strategy="no")
    history = seldom.run()["history"]
    assert [entry["validation"] for entry in history] == [None, None, 0.4 if asked else None]
    for key in ("step", "epoch", "loss"):
        assert [entry[key] for entry in history] == [entry[key] for entry in expected]
    assert same(seldom.weights(), often.weights())
    assert [same(weights, seldom.weights()) for weights in seen] == [True] * asked
