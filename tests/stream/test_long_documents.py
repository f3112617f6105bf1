"""Long documents in the stream: each part once an epoch, resumed at any place, copies and held-out parts left out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import Config
from mlm_pretrain.stream.pack import Segmenter
from mlm_pretrain.stream.shards.prepare import prepare, prepared_settings
from mlm_pretrain.stream.shards.reading import read_group
from mlm_pretrain.text.files import long, plain
from mlm_pretrain.text.mixture import is_held_out
from tests.conftest import tiny_config
from tests.stream.test_order import digest, run

LETTERS = "bcdfghjklmnpqrstvwxz"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long, "LONGEST", 400)
    monkeypatch.setattr(long, "_SEARCHED", 50)
    monkeypatch.setattr(plain, "LONGEST_READ", 3000)
    monkeypatch.setattr(plain, "_SEARCHED", 50)


def sentence(number: int) -> str:
    return f"The {LETTERS[number % 20]}{number} of this chapter ends here."


def book(first: int, sentences: int, end: str = " ") -> str:
    return "".join(sentence(number) + end for number in range(first, first + sentences))


def write(folder: Path, form: str) -> dict[str, Any]:
    """A long document or two among short ones; the source that reads them."""
    folder.mkdir()
    texts = [book(1000, 250), *(sentence(number) for number in range(40)), book(2000, 60)]
    if form == "jsonl":
        (folder / "x.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    elif form == "one line":
        (folder / "x.txt").write_text(book(1000, 250))
    elif form == "file":
        (folder / "x.txt").write_text(book(1000, 250, "\n"))
    else:
        (folder / "x.txt").write_text("\n\n".join(texts))
    return {"source": "files", "path": str(folder)} | ({"document": "file"} if form == "file" else {})


def numbers_of(config: Config, tokenizer: PreTrainedTokenizerFast, batches: list[Any]) -> Counter[str]:
    """How often each sentence was seen, by its number."""
    seen: Counter[str] = Counter()
    for batch in batches:
        labels, ids = batch.tensors["labels"].numpy(), batch.tensors["input_ids"].numpy()
        for row, segments in zip(np.where(labels == -100, ids, labels), batch.tensors["segment_ids"], strict=True):
            for number in range(1, int(segments.max()) + 1):
                text = tokenizer.decode(row[(segments == number).numpy()][1:-1])
                seen.update(word for word in text.split() if word[0] in LETTERS and word[1:].isdigit())
    return seen


@pytest.mark.parametrize("form", ["jsonl", "paragraphs", "one line", "file"])
def test_an_epoch_has_every_sentence_of_a_long_document_once_and_resumes_anywhere(
    form: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    source = write(tmp_path / "text", form) | {"max_epochs": 1}
    stream = {"lanes": 4, "sequence_length": 512, "shuffle_window": 1500, "packing_buffer": 300}
    text = {"sources": [source], "validation_fraction": 0.0}
    config = tiny_config(tmp_path, tmp_path, text=text, stream=stream, training={"global_batch_size": 4})
    taken = run(config, tokenizer, 1, 60)
    assert not taken[-1].tokens
    seen = numbers_of(config, tokenizer, taken)
    expected = {1000 + number for number in range(250)}
    if form in {"jsonl", "paragraphs"}:
        expected |= {*range(40), *range(2000, 2060)}
    assert seen == Counter(f"{LETTERS[number % 20]}{number}" for number in expected)
    for step in range(1, 12, 3):
        state = json.loads(json.dumps(taken[step - 1].lanes))
        resumed = run(config, tokenizer, 1 + step % 2, 3, state=state, step=step)
        assert [digest(batch) for batch in resumed] == [digest(batch) for batch in taken[step : step + 3]]


def test_no_text_that_is_tokenised_is_long(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = []
    tokenise = Segmenter.__call__

    def watched(self: Segmenter, documents: Any) -> Any:
        longest.append(max(map(len, documents)))
        return tokenise(self, documents)

    monkeypatch.setattr(Segmenter, "__call__", watched)
    text = {"sources": [write(tmp_path / "text", "jsonl")], "validation_fraction": 0.0}
    run(tiny_config(tmp_path, tmp_path, text=text), tokenizer, 1, 20)
    assert 200 < max(longest) <= 400


def test_shards_leave_out_copies_of_parts_and_held_out_parts(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    texts = [book(1000, 250), sentence(1), book(1000, 250), book(3000, 30), sentence(1)]
    (folder / "x.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = tiny_config(
        tmp_path,
        tmp_path,
        text={"sources": [{"source": "files", "path": str(folder)}], "validation_fraction": 0.2},
        stream={"sequence_length": 512, "prepared": str(tmp_path / "prepared")},
        prepare={"deduplicate": True, "num_proc": 1},
    )
    settings = prepared_settings(config, packing=True, vocabulary="v", corpus={"x": "c"})
    manifest = prepare(config, tokenizer, True, tmp_path / "prepared", settings)
    (source,) = manifest["sources"]
    parts = [part for text in dict.fromkeys(texts) for part in long.parts(text)]
    training = [part for part in parts if not is_held_out(part, 0.2)]
    assert len(training) < len(parts) and source["documents"] == len(training)
    found = []
    for file in source["files"]:
        for group in range(file["groups"]):
            block = read_group(tmp_path / "prepared" / file["name"], group)
            found += [tokenizer.decode(ids[1:-1]) for ids in np.split(block.ids, np.cumsum(block.lengths)[:-1])]
    expected = [tokenizer.decode(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in training]
    assert sorted(found) == sorted(expected)
    assert source["dropped"]["copy"] > 10
