"""Contract 1 on one process: the batches are a pure function of config, seed, corpus and step."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import Config, TextConfig
from mlm_pretrain.config_file import make_config
from mlm_pretrain.errors import UserError
from mlm_pretrain.objectives.base import OBJECTIVES
from mlm_pretrain.stream.loader import GlobalBatch, global_batches
from mlm_pretrain.stream.shuffle import DocumentStream
from mlm_pretrain.text.mixture import is_held_out
from tests.conftest import tiny_config


def batches(
    config: Config, tokenizer: PreTrainedTokenizerFast, *, state: str | None = None, step: int = 0, workers: int = 0
) -> Iterator[GlobalBatch]:
    objective = OBJECTIVES["mlm"](config.objective, tokenizer, config.stream.sequence_length)
    return global_batches(config, tokenizer, objective, packing=True, num_workers=workers, state=state, step=step)


def digest(batch: GlobalBatch) -> str:
    whole = hashlib.sha256()
    for name, tensor in sorted(batch.tensors.items()):
        whole.update(name.encode() + tensor.numpy().tobytes())
    return whole.hexdigest()


def hashes(config: Config, tokenizer: PreTrainedTokenizerFast, count: int, **place: object) -> list[str]:
    return [digest(batch) for batch in itertools.islice(batches(config, tokenizer, **place), count)]  # type: ignore[arg-type]


STEPS = 60  # several windows, many chunks, and more than one epoch


@pytest.fixture(scope="module")
def uninterrupted(
    corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, list[str], list[str]]:
    config = tiny_config(corpus, tmp_path_factory.mktemp("order"))
    taken = list(itertools.islice(batches(config, tokenizer), STEPS))
    assert max(source["epoch"] for source in taken[-1].counts.values()) >= 1
    return config, [digest(batch) for batch in taken], [batch.state for batch in taken]


def test_resuming_behind_any_step_gives_the_same_batches(
    uninterrupted: tuple[Config, list[str], list[str]], tokenizer: PreTrainedTokenizerFast
) -> None:
    config, expected, states = uninterrupted
    assert len(set(expected)) == STEPS
    for step in range(1, STEPS - 2, 5):
        resumed = hashes(config, tokenizer, 3, state=states[step - 1], step=step)
        assert resumed == expected[step : step + 3], f"behind step {step}"


def test_a_worker_makes_the_same_batches_and_states(
    uninterrupted: tuple[Config, list[str], list[str]], tokenizer: PreTrainedTokenizerFast
) -> None:
    config, expected, states = uninterrupted
    taken = list(itertools.islice(batches(config, tokenizer, workers=1), 20))
    assert [digest(batch) for batch in taken] == expected[:20]
    assert [batch.state for batch in taken] == states[:20]


def test_a_chain_of_resumes_gives_the_same_batches(
    uninterrupted: tuple[Config, list[str], list[str]], tokenizer: PreTrainedTokenizerFast
) -> None:
    config, expected, _ = uninterrupted
    seen: list[str] = []
    state = None
    while len(seen) < 30:
        for batch in itertools.islice(batches(config, tokenizer, state=state, step=len(seen)), 1 + len(seen) % 4):
            seen.append(digest(batch))
            state = batch.state
    assert seen == expected[: len(seen)]


def test_the_seed_changes_the_order_and_the_state_is_small(
    uninterrupted: tuple[Config, list[str], list[str]], tokenizer: PreTrainedTokenizerFast
) -> None:
    config, expected, states = uninterrupted
    other = config.model_copy(update={"run": config.run.model_copy(update={"seed": 1})})
    assert not set(hashes(other, tokenizer, 5)) & set(expected)
    assert max(map(len, states)) < 8_000


def _text(corpus: Path, **keys: object) -> TextConfig:
    raw = {"text": {"sources": [{"source": "files", "path": str(corpus)}], "validation_fraction": 0.1, **keys}}
    return make_config(raw).text


# Each example reads the corpus several times: without shrinking, a failure is told at once.
@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(window=st.integers(1, 60_000), size=st.integers(500, 50_000), seed=st.integers(0, 5))
def test_an_epoch_has_every_training_document_once(corpus: Path, window: int, size: int, seed: int) -> None:
    lines = [line for path in corpus.iterdir() for line in path.read_text(encoding="utf-8").splitlines()]
    documents = [json.loads(line)["text"] for line in lines]
    stream = DocumentStream(_text(corpus), seed, window)
    expected = Counter(text for text in documents if not is_held_out(text, 0.1))
    taken: list[str] = []
    while len(taken) < 2 * expected.total():
        taken += [text for text, _ in stream.take(size)]
        # Taken up again by another process from what a checkpoint holds.
        state = json.loads(json.dumps(stream.state()))
        stream = DocumentStream(_text(corpus), seed, window)
        stream.restore(state)
    first, second = taken[: expected.total()], taken[expected.total() : 2 * expected.total()]
    # Compared by text, so that a failure doesn't print the corpus.
    assert sorted(first) == sorted(expected.elements()), "the first epoch"
    assert sorted(second) == sorted(expected.elements()), "the second epoch"
    if window > 5_000:  # less holds a document or two
        assert first != second


def test_sources_are_mixed_by_their_weights_in_bytes(corpus: Path, tmp_path: Path) -> None:
    lines = tmp_path / "short.txt"
    lines.write_text("".join(f"line number {number} of a small source\n" for number in range(50)), encoding="utf-8")
    sources = [
        {"source": "files", "path": str(corpus), "weight": 3.0, "label": "docs"},
        {"source": "files", "path": str(lines), "document": "line", "weight": 1.0, "label": "lines"},
    ]
    stream = DocumentStream(_text(corpus, sources=sources), 0, 100_000)
    taken = stream.take(60_000)
    by_source = Counter[int]()
    for text, source in taken:
        by_source[source] += len(text.encode())
    assert abs(by_source[0] / by_source.total() - 0.75) < 0.05
    counts = stream.counts()
    assert counts["lines"]["epoch"] >= 5
    assert counts["docs"]["epoch"] == 0


def test_a_source_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blank.jsonl").write_text('{"text": "  "}\n{"text": null}\n', encoding="utf-8")
    with pytest.raises(UserError, match="no text"):
        DocumentStream(_text(tmp_path / "blank.jsonl"), 0, 1000).take(1)
