"""Contract 1: the global batches are a pure function of config, seed, corpus and step, whoever makes them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import Config
from mlm_pretrain.config.batch_size import BatchSize
from mlm_pretrain.objectives.base import OBJECTIVES
from mlm_pretrain.stream.loader import GlobalBatch, global_batches
from tests.conftest import tiny_config


def batches(
    config: Config, tokenizer: PreTrainedTokenizerFast, workers: int = 0, **place: Any
) -> Iterator[GlobalBatch]:
    objective = OBJECTIVES["mlm"](config.objective, tokenizer, config.stream.sequence_length)
    return global_batches(config, tokenizer, objective, packing=True, num_workers=workers, **place)


def joined(shares: tuple[GlobalBatch, ...]) -> GlobalBatch:
    """The processes' shares of a batch as one, its rows in order."""
    rows, order = torch.cat([share.rows for share in shares]).sort()
    names = shares[0].tensors
    tensors = {name: torch.cat([share.tensors[name] for share in shares])[order] for name in names}
    lanes = {number: state for share in shares for number, state in share.lanes.items()}
    return GlobalBatch(tensors, rows, sum(share.tokens for share in shares), lanes, shares[0].counts)


def run(
    config: Config, tokenizer: PreTrainedTokenizerFast, processes: int, steps: int, workers: int = 0, **place: Any
) -> list[GlobalBatch]:
    """Some steps of a run on several processes (here in turn, in one)."""
    streams = [
        batches(config, tokenizer, workers, rank=rank, world_size=processes, **place) for rank in range(processes)
    ]
    return [joined(shares) for shares in itertools.islice(zip(*streams, strict=True), steps)]


def digest(batch: GlobalBatch) -> str:
    whole = hashlib.sha256(batch.rows.numpy().tobytes())
    for name, tensor in sorted(batch.tensors.items()):
        whole.update(name.encode() + tensor.numpy().tobytes())
    return whole.hexdigest()


STEPS = 100  # several windows and chunks in each lane, and more than one epoch


@pytest.fixture(scope="module")
def uninterrupted(
    corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, list[str], list[dict[str, Any]]]:
    config = tiny_config(corpus, tmp_path_factory.mktemp("order"))
    taken = run(config, tokenizer, processes=1, steps=STEPS)
    assert min(source["epoch"] for source in taken[-1].counts.values()) >= 1
    hashes = [digest(batch) for batch in taken]
    assert len(set(hashes)) == STEPS
    return config, hashes, [batch.lanes for batch in taken]


Uninterrupted = tuple[Config, list[str], list[dict[str, Any]]]


@pytest.mark.parametrize(("processes", "workers"), [(1, 1), (1, 2), (1, 4), (2, 0), (2, 2), (3, 0), (4, 1), (8, 0)])
def test_processes_and_workers_make_the_same_batches_and_states(
    uninterrupted: Uninterrupted, tokenizer: PreTrainedTokenizerFast, processes: int, workers: int
) -> None:
    config, expected, states = uninterrupted
    taken = run(config, tokenizer, processes, 20, workers)
    assert [digest(batch) for batch in taken] == expected[:20]
    assert [batch.lanes for batch in taken] == states[:20]
    assert all(len(batch.rows) == config.training.global_batch_size for batch in taken)


def test_resuming_behind_any_step_gives_the_same_batches(
    uninterrupted: Uninterrupted, tokenizer: PreTrainedTokenizerFast
) -> None:
    config, expected, states = uninterrupted
    for step in range(1, STEPS - 2, 5):
        state = json.loads(json.dumps(states[step - 1]))
        resumed = run(config, tokenizer, 1 + step % 3, 3, state=state, step=step)
        assert [digest(batch) for batch in resumed] == expected[step : step + 3], f"behind step {step}"


STAGES = {0: 4, 2: 8, 5: 11}


@given(st.dictionaries(st.integers(1, 40), st.integers(1, 64), max_size=4), st.integers(1, 64), st.integers(0, 60))
def test_each_step_has_the_rows_behind_those_of_the_step_before(later: dict[int, int], first: int, step: int) -> None:
    size = BatchSize({0: first, **dict(sorted(later.items()))})
    assert size.rows_before(step) == sum(size.at(number) for number in range(step))
    assert {size.at(number) for number in range(60)} == set(size.values)


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (2, 2), (4, 0)])
def test_batch_sizes_in_stages_take_the_rows_in_the_same_order(
    uninterrupted: Uninterrupted, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, processes: int, workers: int
) -> None:
    text = uninterrupted[0].text.sources[0].path
    assert text is not None
    config = tiny_config(Path(text), tmp_path, training={"global_batch_size": STAGES})
    staged = run(config, tokenizer, processes, 7, workers)
    assert [len(batch.rows) for batch in staged] == [4, 4, 8, 8, 8, 11, 11]
    assert torch.cat([batch.rows for batch in staged]).tolist() == list(range(54))
    plain = run(uninterrupted[0], tokenizer, 1, 7)
    for name, tensor in plain[0].tensors.items():
        rows = torch.cat([batch.tensors[name] for batch in staged])
        assert torch.equal(rows, torch.cat([batch.tensors[name] for batch in plain])[: len(rows)]), tensor.shape

    state = json.loads(json.dumps(staged[3].lanes))
    resumed = run(config, tokenizer, 1, 3, state=state, step=4)
    assert [digest(batch) for batch in resumed] == [digest(batch) for batch in staged[4:]]


def test_a_chain_of_resumes_on_changing_processes_gives_the_same_batches(
    uninterrupted: Uninterrupted, tokenizer: PreTrainedTokenizerFast
) -> None:
    config, expected, _ = uninterrupted
    seen: list[str] = []
    state = None
    for processes, workers in itertools.cycle([(1, 0), (2, 0), (1, 2), (3, 1), (8, 0)]):
        for batch in run(config, tokenizer, processes, 3, workers, state=state, step=len(seen)):
            seen.append(digest(batch))
            state = batch.lanes
        if len(seen) >= 30:
            break
    assert seen == expected[: len(seen)]


def test_the_seed_changes_the_order_and_the_state_is_small(
    uninterrupted: Uninterrupted, tokenizer: PreTrainedTokenizerFast
) -> None:
    config, expected, states = uninterrupted
    other = config.model_copy(update={"run": config.run.model_copy(update={"seed": 1})})
    assert not {digest(batch) for batch in run(other, tokenizer, 1, 5)} & set(expected)
    assert max(len(json.dumps(state)) for state in states) < 6_000


def test_masks_change_every_epoch(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    # One document that fills a row: only its masks can tell the epochs from one another.
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": "a b c d e f g h i j k l m n o p " * 10}) + "\n")
    source = {"source": "files", "path": str(tmp_path / "one.jsonl")}
    text = {"sources": [source], "validation_fraction": 0.0}
    config = tiny_config(tmp_path, tmp_path, text=text, stream={"lanes": 2, "packing_buffer": 10})
    batches = [batch.tensors for batch in run(config, tokenizer, 1, 5)]
    # The document's last few tokens may well be masked alike twice.
    labels = torch.cat([batch["labels"][(batch["segment_ids"] > 0).all(dim=1)] for batch in batches])
    assert len({row.numpy().tobytes() for row in labels}) == len(labels) > 20


# -- documents over epochs -----------------------------------------------------------------------------------------


def once(text: str) -> str:
    return text.split()[0]


def shards_of(folder: Path, shards: int, documents: int) -> Path:
    """Files of uneven length; each document is one word of its own, and some filling."""
    folder.mkdir()
    files = [(folder / f"{shard}.jsonl").open("w", encoding="utf-8") for shard in range(shards)]
    for number in range(documents):
        # The first file has half of them.
        file = files[0] if number % 2 else files[number // 2 % shards]
        file.write(json.dumps({"text": f"w{number} " + "x" * (number % 17)}) + "\n")
    for file in files:
        file.close()
    return folder


def words_of(batch: GlobalBatch, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The words that the documents of a batch begin with."""
    labels = batch.tensors["labels"]
    ids = torch.where(labels == -100, batch.tensors["input_ids"], labels)
    words = []
    for row, segments in zip(ids, batch.tensors["segment_ids"], strict=True):
        for number in range(1, int(segments.max()) + 1):
            words.append(once(tokenizer.decode(row[segments == number][1:-1])))
    return words


@settings(
    max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(
    shards=st.sampled_from([1, 2, 7, 64]),
    lanes=st.sampled_from([2, 3, 8]),
    window=st.integers(10, 5_000),
    resume=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_epochs_have_every_document_once(
    tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
    shards: int,
    lanes: int,
    window: int,
    resume: int,
    seed: int,
) -> None:
    """For any number of shards against any number of processes, through any number of resumes."""
    documents = 300
    folder = tmp_path_factory.mktemp("shards")
    source = {"source": "files", "path": str(shards_of(folder / "text", shards, documents)), "max_epochs": 2}
    config = tiny_config(
        folder,
        folder,
        run={"seed": seed},
        text={"sources": [source], "validation_fraction": 0.0},
        stream={"lanes": lanes, "shuffle_window": window, "packing_buffer": 300},
    )
    words: Counter[str] = Counter()
    state, step = None, 0
    while True:
        part = run(config, tokenizer, 1 + step % 2, resume, state=state, step=step)
        for batch in part:
            words.update(words_of(batch, tokenizer))
        state, step = part[-1].lanes, step + len(part)
        if not part[-1].tokens:
            break
        assert step < 500
    assert words == {f"w{number}": 2 for number in range(documents)}
