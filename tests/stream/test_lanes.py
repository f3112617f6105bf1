"""What the lanes read, and how they mix their sources."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import Config, TokenizerConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.stream.dealing import PIECES_PER_LANE, Lane, Origin, deal
from mlm_pretrain.stream.loader import GlobalBatch, merge_counts
from mlm_pretrain.text.tokenizing.tokenizer import train_tokenizer
from tests.conftest import tiny_config
from tests.stream.test_order import batches, run


@given(pieces=st.integers(1, 80), lanes=st.integers(1, 12), epoch=st.integers(0, 5), seed=st.integers(0, 3))
def test_the_lanes_read_every_row_of_every_piece_once(pieces: int, lanes: int, epoch: int, seed: int) -> None:
    rows: Counter[tuple[int, int]] = Counter()
    shares = []
    for lane in range(lanes):
        parts = deal(pieces, Origin(seed, 0, Lane(lane, lanes)), epoch)
        shares.append(len(parts))
        rows.update((part.piece, row) for part in parts for row in range(part.first, 24, part.of))
    assert rows == Counter(itertools.product(range(pieces), range(24)))
    # No lane's share is more than one piece larger than another's.
    assert max(shares) - min(shares) <= (pieces >= PIECES_PER_LANE * lanes)


def test_what_a_lane_reads_changes_with_the_epoch() -> None:
    for pieces in (1, 100):
        origin = Origin(0, 0, Lane(0, 4))
        assert deal(pieces, origin, 0) != deal(pieces, origin, 1)


@pytest.fixture
def two_sources(tmp_path: Path) -> list[dict[str, Any]]:
    """A large source of 1,200 documents, and a small one of 40."""
    sources = []
    for name, documents in (("large", 1200), ("small", 40)):
        file = tmp_path / f"{name}.jsonl"
        rows = (json.dumps({"text": f"{name} document number {number}"}) + "\n" for number in range(documents))
        file.write_text("".join(rows), encoding="utf-8")
        sources.append({"source": "files", "path": str(file)})
    return sources


def config_of(sources: list[dict[str, Any]], folder: Path, **text: Any) -> Config:
    return tiny_config(
        folder,
        folder,
        text={"sources": sources, "validation_fraction": 0.0, **text},
        stream={"lanes": 4, "packing_buffer": 2_000, "shuffle_window": 8_000},
    )


def to_the_end(config: Config, tokenizer: PreTrainedTokenizerFast) -> list[GlobalBatch]:
    taken = list(itertools.takewhile(lambda batch: batch.tokens, itertools.islice(batches(config, tokenizer), 2000)))
    assert len(taken) < 2000
    return taken


def test_sources_are_mixed_by_their_weights(
    two_sources: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    two_sources[0]["weight"] = 3.0
    taken = run(config_of(two_sources, tmp_path), tokenizer, 1, 30)
    for batch in taken[14::5]:  # a lane has given a row and a half a step
        tokens = {name: counts["tokens"] for name, counts in batch.counts.items()}
        assert tokens["large"] / sum(tokens.values()) == pytest.approx(0.75, abs=0.05)
    counts = taken[-1].counts
    # The small one has been through several times, the large one has not.
    assert counts["small"]["documents"] > 3 * 40
    assert counts["small"]["epoch"] >= 2
    assert counts["large"]["epoch"] == 0


def test_the_counts_are_those_of_the_rows_given(
    two_sources: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    taken = run(config_of(two_sources, tmp_path), tokenizer, 1, 20)
    tokens: Counter[int] = Counter()
    for batch in taken:
        tokens.update(batch.tensors["source_ids"].flatten().tolist())
    assert [counts["tokens"] for counts in taken[-1].counts.values()] == [tokens[0], tokens[1]]
    assert sum(batch.tokens for batch in taken) == tokens[0] + tokens[1]
    shares = [next(batches(config_of(two_sources, tmp_path), tokenizer, rank=rank, world_size=2)) for rank in range(2)]
    assert merge_counts(share.counts for share in shares) == taken[0].counts


def test_a_source_ends_after_its_epochs_and_the_others_go_on(
    two_sources: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    two_sources[1]["max_epochs"] = 3
    counts = run(config_of(two_sources, tmp_path), tokenizer, 1, 60)[-1].counts
    assert counts["small"]["documents"] == 3 * 40
    assert counts["large"]["documents"] > 500


@pytest.mark.parametrize(
    ("strategy", "epochs", "large", "small"),
    [
        ("first_exhausted", None, None, 40),
        ("first_exhausted", 2, None, 80),
        ("all_exhausted", None, 1200, None),
        ("all_exhausted", 2, 1200, 80),
    ],
)
def test_stopping_strategies(
    two_sources: list[dict[str, Any]],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    strategy: str,
    epochs: int | None,
    large: int | None,
    small: int | None,
) -> None:
    """What ends the run is through completely; every lane stops there, so that nothing hangs."""
    two_sources[1]["max_epochs"] = epochs
    config = config_of(two_sources, tmp_path, stopping_strategy=strategy)
    taken = to_the_end(config, tokenizer)
    counts = taken[-1].counts
    if large is not None:
        # Repeated until the end, a lane may have begun the next epoch within its last chunk.
        assert large <= counts["large"]["documents"] <= large * 1.15
    else:
        assert counts["large"]["documents"] < 400
    if small is not None:
        assert counts["small"]["documents"] == small
    else:
        assert counts["small"]["documents"] > 400
    # Resumed near the end, it ends at the same step.
    step = len(taken) - 3
    resumed = itertools.takewhile(
        lambda batch: batch.tokens, batches(config, tokenizer, state=taken[step - 1].lanes, step=step)
    )
    assert len(list(resumed)) == 3


def test_a_small_source_is_through_before_it_is_repeated(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """A chunk could hold it many times over, and ends with its epoch all the same."""
    file = tmp_path / "small.jsonl"
    file.write_text(
        "".join(json.dumps({"text": f"document {number}"}) + "\n" for number in range(48)), encoding="utf-8"
    )
    text = {"sources": [{"source": "files", "path": str(file)}], "validation_fraction": 0.0}
    stream = {"lanes": 4, "packing_buffer": None, "shuffle_window": "1MB"}
    config = tiny_config(tmp_path, tmp_path, text={**text, "stopping_strategy": "all_exhausted"}, stream=stream)
    assert to_the_end(config, tokenizer)[-1].counts["small"]["documents"] == 48
    endless = tiny_config(tmp_path, tmp_path, text=text, stream=stream)
    for batch in run(endless, tokenizer, 1, 40):
        counts = batch.counts["small"]
        assert abs(counts["documents"] / 48 - counts["epoch"]) <= 1.5


def test_where_the_text_ends_a_step_takes_of_every_lane(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text\n\nand more\n", encoding="utf-8")
    source = {"source": "files", "path": str(tmp_path / "a.txt"), "max_epochs": 1}
    config = tiny_config(tmp_path, tmp_path, text={"sources": [source]}, training={"global_batch_size": 4})
    with pytest.raises(UserError, match="4 rows are too few for 8 lanes where the text ends"):
        next(batches(config, tokenizer))


def test_drops_are_counted_once_over_all_lanes(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    rows = [{"text": f"a document of number {number}"} for number in range(100)]
    rows += [{"text": ""}] * 7 + [{"text": None}] * 5 + [{"text": "short"}] * 3
    file = tmp_path / "some.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = {"source": "files", "path": str(file), "max_epochs": 1, "filters": {"min_length": 10}}
    taken = to_the_end(config_of([source], tmp_path), tokenizer)
    assert taken[-1].counts["some"]["dropped"] == {"empty": 7, "null": 5, "short": 3}
    assert taken[-1].counts["some"]["documents"] == 100


def test_text_without_tokens_is_refused(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TokenizerConfig(algorithm="wordpiece", vocab_size=300), ["some words"] * 9)
    (tmp_path / "blank.jsonl").write_text(json.dumps({"text": "\u200b\u200b"}) + "\n", encoding="utf-8")
    config = config_of([{"source": "files", "path": str(tmp_path / "blank.jsonl")}], tmp_path)
    with pytest.raises(UserError, match="gives no tokens"):
        next(batches(config, tokenizer))


def test_a_source_without_text_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    (tmp_path / "blank.jsonl").write_text('{"text": "  "}\n{"text": null}\n', encoding="utf-8")
    config = config_of([{"source": "files", "path": str(tmp_path / "blank.jsonl")}], tmp_path)
    for workers in (0, 2):
        with pytest.raises(UserError, match="no text to train on"):
            next(batches(config, tokenizer, workers))


def test_more_processes_than_lanes_are_refused(config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"stream\.lanes: 8 lanes are too few for 9 processes"):
        next(batches(config, tokenizer, rank=8, world_size=9))


def test_an_error_in_a_worker_ends_the_process(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Nobody catches it here, and the traceback holds on to everything: the workers end all the same."""
    (tmp_path / "blank.txt").write_text("x\n\ny\n", encoding="utf-8")
    source = {"source": "files", "path": str(tmp_path / "blank.txt"), "filters": {"min_length": 100}}
    (tmp_path / "config.json").write_text(config_of([source], tmp_path).model_dump_json(), encoding="utf-8")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    script = """
import sys, transformers
from mlm_pretrain.config import Config
from mlm_pretrain.objectives.base import OBJECTIVES
from mlm_pretrain.stream.loader import global_batches
folder = sys.argv[1]
config = Config.model_validate_json(open(folder + "/config.json").read())
tokenizer = transformers.AutoTokenizer.from_pretrained(folder + "/tokenizer")
objective = OBJECTIVES["mlm"](config.objective, tokenizer, config.stream.sequence_length)
next(global_batches(config, tokenizer, objective, packing=True, num_workers=2))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "no text to train on" in done.stderr.splitlines()[-1]
