"""Prepared shards: the same contract as the stream of text, whoever writes them and however often they are killed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import Config
from mlm_pretrain.errors import UserError
from mlm_pretrain.stream.pack import Block
from mlm_pretrain.stream.shards import writing
from mlm_pretrain.stream.shards.prepare import prepare, prepared_settings
from mlm_pretrain.stream.shards.reading import read_group, read_manifest, refuse_stale
from mlm_pretrain.text.mixture import is_held_out
from mlm_pretrain.text.tokenizing.tokenizer import SPECIAL_TOKENS
from tests.conftest import tiny_config
from tests.stream.test_order import digest, run


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, groups and shards in a corpus of 50 KB."""
    monkeypatch.setattr(writing, "CHUNK_BYTES", 4_000)
    monkeypatch.setattr(writing, "least_chunk_bytes", lambda length: 0)
    monkeypatch.setattr(writing, "WINDOW_BYTES", 8_000)
    monkeypatch.setattr(writing, "SHARD_TOKENS", 2_000)
    monkeypatch.setattr(writing, "GROUP_TOKENS", 500)


def config_for(corpus: Path, folder: Path, **sections: Any) -> Config:
    return tiny_config(corpus, folder, **{"stream": {"prepared": str(folder / "prepared")}, **sections})


def settings_of(config: Config) -> dict[str, Any]:
    return prepared_settings(config, packing=True, vocabulary="v", corpus={"docs": "c"})


def make(config: Config, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return prepare(config, tokenizer, True, Path(str(config.stream.prepared)), settings_of(config))


def blocks(folder: Path, source: int = 0) -> list[Block]:
    files = read_manifest(folder)["sources"][source]["files"]
    return [read_group(folder / file["name"], group) for file in files for group in range(file["groups"])]


def texts(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Counter[str]:
    """Each segment's text."""
    found: Counter[str] = Counter()
    for block in blocks(folder):
        for part in np.split(block.ids, np.cumsum(block.lengths)[:-1]):
            found[tokenizer.decode(part[1:-1])] += 1
    return found


def whole(folder: Path) -> str:
    digests = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
    return json.dumps(digests, sort_keys=True)


def test_shards_hold_every_training_document_once_whoever_writes_them(
    corpus: Path, documents: list[str], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    results = []
    for processes in (1, 3):
        folder = tmp_path / str(processes)
        config = config_for(
            corpus,
            folder,
            prepare={"num_proc": processes},
            stream={"sequence_length": 4096, "prepared": str(folder / "prepared")},
        )
        manifest = make(config, tokenizer)
        results.append(whole(folder / "prepared"))
    assert results[0] == results[1]
    training = [text for text in documents if not is_held_out(text, 0.1)]
    expected = Counter(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in training)
    assert texts(folder / "prepared", tokenizer) == expected
    (source,) = manifest["sources"]
    assert source["documents"] == len(training)
    assert source["bytes"] == sum(len(text.encode()) for text in training)
    assert source["tokens"] == sum(len(block.ids) for block in blocks(folder / "prepared"))
    assert len(source["files"]) > 3


def test_training_on_shards_keeps_the_order_contract(
    corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = config_for(corpus, tmp_path)
    make(config, tokenizer)
    taken = run(config, tokenizer, 1, 120)
    expected = [digest(batch) for batch in taken]
    assert min(counts["epoch"] for counts in taken[-1].counts.values()) >= 1
    for processes, workers in ((1, 2), (2, 0), (3, 1)):
        assert [digest(batch) for batch in run(config, tokenizer, processes, 12, workers)] == expected[:12]
    for step in (1, 40, 77, 110):
        state = json.loads(json.dumps(taken[step - 1].lanes))
        resumed = run(config, tokenizer, 1 + step % 2, 4, state=state, step=step)
        assert [digest(batch) for batch in resumed] == expected[step : step + 4]


@pytest.mark.parametrize("lanes", [1, 2, 8, 40])
def test_an_epoch_over_shards_has_every_row_once(
    corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, lanes: int
) -> None:
    source = {"source": "files", "path": str(corpus), "max_epochs": 2}
    stream = {"lanes": lanes, "prepared": str(tmp_path / "prepared"), "shuffle_window": 9_000}
    config = config_for(corpus, tmp_path, text={"sources": [source]}, stream=stream, training={"global_batch_size": 80})
    manifest = make(config, tokenizer)
    seen: Counter[bytes] = Counter()
    for batch in run(config, tokenizer, 1, 100):
        labels, ids = batch.tensors["labels"].numpy(), batch.tensors["input_ids"].numpy()
        kept = np.where(labels == -100, ids, labels)[batch.tensors["segment_ids"].numpy()[:, 0] > 0]
        seen.update(row.tobytes() for row in kept)
    assert batch.tokens == 0
    assert sum(seen.values()) == 2 * manifest["sources"][0]["rows"]
    assert batch.counts["corpus0"]["tokens"] == 2 * manifest["sources"][0]["tokens"]
    assert all(count % 2 == 0 for count in seen.values())


def test_exact_copies_are_dropped_and_counted(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for name in "ab":  # 40 documents, each in both files, and every fourth twice in a file
        rows = [json.dumps({"text": f"document number {number % 30}"}) + "\n" for number in range(40)]
        (folder / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
    sources = [{"source": "files", "path": str(folder / f"{name}.jsonl")} for name in "ab"]
    config = config_for(
        folder,
        tmp_path,
        text={"sources": [sources[0]], "validation_fraction": 0.0},
        prepare={"deduplicate": True},
    )
    manifest = make(config, tokenizer)
    assert texts(tmp_path / "prepared", tokenizer) == {f"document number {number}": 1 for number in range(30)}
    assert manifest["sources"][0]["dropped"] == {"copy": 10}
    assert not (tmp_path / "prepared" / ".hashes").exists()
    both = config_for(
        folder,
        tmp_path / "both",
        text={"sources": [{**sources[0], "label": "a"}, {**sources[1], "label": "b"}], "validation_fraction": 0.0},
        prepare={"deduplicate": True},
    )
    with pytest.raises(UserError, match="'b' has no text"):
        make(both, tokenizer)


def test_a_killed_preparation_goes_on_and_leaves_the_same_shards(
    corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    expected = config_for(corpus, tmp_path / "whole")
    make(expected, tokenizer)
    config = config_for(corpus, tmp_path / "killed", prepare={"num_proc": 2})
    prepared = Path(str(config.stream.prepared))
    fork = multiprocessing.get_context("fork")
    for shards in (1, 3, 6):
        process = fork.Process(target=make, args=(config, tokenizer))
        process.start()
        deadline = time.monotonic() + 60
        while (
            len(list(prepared.rglob("lane*.parquet"))) < shards and process.is_alive() and time.monotonic() < deadline
        ):
            time.sleep(0.0005)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    make(config, tokenizer)
    assert whole(prepared) == whole(Path(str(expected.stream.prepared)))


def test_stale_and_damaged_shards_are_named_and_made_anew(
    corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_for(corpus, tmp_path)
    prepared = tmp_path / "prepared"
    manifest = make(config, tokenizer)
    before = whole(prepared)
    refuse_stale(prepared, settings_of(config))
    shorter = config_for(corpus, tmp_path, stream={"sequence_length": 32, "prepared": str(prepared)})
    with pytest.raises(UserError, match=r"stale: stream\.sequence_length was 48 and is 32 now"):
        refuse_stale(prepared, settings_of(shorter))
    file = prepared / manifest["sources"][0]["files"][1]["name"]
    flipped = bytearray(file.read_bytes())
    flipped[100] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(UserError, match=rf"{file.name}: damaged"):
        run(config, tokenizer, 1, 60)
    make(config, tokenizer)
    assert f"{file}: damaged" in capsys.readouterr().err
    assert whole(prepared) == before
    file.unlink()
    with pytest.raises(UserError, match=rf"{file.name}: is missing"):
        run(config, tokenizer, 1, 1)
    make(shorter, tokenizer)
    assert "the shards were stale (stream.sequence_length)" in capsys.readouterr().err
    refuse_stale(prepared, settings_of(shorter))


def test_a_folder_with_something_else_is_left_alone(
    corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "thesis.txt").write_text("three years of work")
    with pytest.raises(UserError, match="something else than prepared shards"):
        make(config_for(corpus, tmp_path), tokenizer)
    # Also what somebody has put among the shards.
    config = config_for(corpus, tmp_path / "other")
    make(config, tokenizer)
    (tmp_path / "other" / "prepared" / "source-00" / "thesis.txt").write_text("three years of work")
    make(
        config_for(corpus, tmp_path / "other", stream={"sequence_length": 32, "prepared": config.stream.prepared}),
        tokenizer,
    )
    assert (tmp_path / "prepared" / "thesis.txt").exists()
    assert (tmp_path / "other" / "prepared" / "source-00" / "thesis.txt").exists()


@pytest.mark.parametrize("name", ["../precious.parquet", "source-00/../../precious.parquet", "{root}/precious.parquet"])
def test_a_manifest_names_nothing_outside_of_its_folder(
    corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, name: str
) -> None:
    config = config_for(corpus, tmp_path)
    make(config, tokenizer)
    folder = tmp_path / "prepared"
    precious = tmp_path / "precious.parquet"
    precious.write_bytes(b"somebody's")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sources"][0]["files"][0]["name"] = name.format(root=tmp_path)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for verb in (lambda: read_manifest(folder), lambda: make(config, tokenizer)):
        with pytest.raises(UserError, match=r"manifest\.json: names .* outside of"):
            verb()
    assert precious.read_bytes() == b"somebody's"
    (folder / "manifest.json").write_text('{"sources": [{"files": [3]}]}')
    with pytest.raises(UserError, match=r"no manifest of prepared shards"):
        read_manifest(folder)


def test_shards_are_removed_and_written_in_their_folder_alone(
    corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = config_for(corpus, tmp_path)
    make(config, tokenizer)
    folder = tmp_path / "prepared"
    elsewhere = tmp_path / "elsewhere"
    (folder / "source-00").rename(elsewhere)
    (folder / "source-00").symlink_to(elsewhere)
    before = whole(elsewhere)
    for anew in (False, True):
        with pytest.raises(UserError, match=r"a symlink leads out of .*prepared"):
            prepare(config, tokenizer, True, folder, settings_of(config), anew=anew)
    # The folder itself may be a link: it is the user's own word.
    (folder / "source-00").unlink()
    elsewhere.rename(folder / "source-00")
    folder.rename(tmp_path / "on-another-disk")
    folder.symlink_to(tmp_path / "on-another-disk")
    make(config, tokenizer)
    assert before == whole(folder / "source-00")


def test_shards_that_are_being_written_are_left_to_who_writes_them(
    corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = config_for(corpus, tmp_path)
    (tmp_path / "prepared").mkdir()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(1, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(tmp_path / "prepared" / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(UserError, match="another process is preparing"):
            make(config, tokenizer)
    make(config, tokenizer)


def test_ids_above_what_two_bytes_hold_are_kept_however_few_tokens_there_are(
    corpus: Path, documents: list[str], tmp_path: Path
) -> None:
    words = sorted({word for text in documents for word in text.split()})
    special = {name: number for number, name in enumerate(SPECIAL_TOKENS)}
    inner = Tokenizer(models.WordLevel({**special, **{word: 70_000 + n for n, word in enumerate(words)}}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    frame = [("[CLS]", special["[CLS]"]), ("[SEP]", special["[SEP]"])]
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL_TOKENS}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    assert len(tokenizer) < 1 << 16
    make(config_for(corpus, tmp_path), tokenizer)
    known = {*range(5), *range(70_000, 70_000 + len(words))}
    ids = {number for block in blocks(tmp_path / "prepared") for number in block.ids.tolist()}
    assert ids <= known and max(ids) > 70_000
