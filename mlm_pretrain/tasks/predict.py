"""Labelling texts with a fine-tuned model: text lines or jsonl in, jsonl out in the same order, in chunks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from seqeval.metrics.sequence_labeling import get_entities
from transformers import PretrainedConfig, PreTrainedModel

from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.adapter import Example, Prediction, TaskAdapter
from mlm_pretrain.tasks.encoder import load_config, load_model, load_tokenizer, window_length
from mlm_pretrain.tasks.inference import logits_of
from mlm_pretrain.tasks.readers import parse_json_line, read_raw_lines
from mlm_pretrain.tasks.registered import TASKS
from mlm_pretrain.telemetry import progress, say, warn

CHUNK = 1024
"""Texts that are in memory together."""


def predict(
    model_dir: str | Path,
    input: Path,
    output: Path | None = None,
    *,
    text_column: str = "text",
    batch_size: int = 32,
    max_length: int | None = None,
    stride: int | None = None,
) -> dict[str, int]:
    """Label every text of a file.

    Args:
        model_dir: a fine-tuned model, a folder or a Hub repository; its architecture tells the task.
        input: jsonl (`.jsonl`, `.json`: the text in `text_column`) or else one text a line; `.gz` of either. Empty
            lines are passed over.
        output: a jsonl file, written whole or not at all; by default standard output. Per text, in the order of the
            input: `{"text", "label", "score"}`, or `{"text", "entities": [{"type", "start", "end", "text", "score"}]}`
            where `start` and `end` count the characters of the text and the score is the mean over the words.
        max_length, stride: tokens per window, and those that neighbouring windows share (an eighth by default).

    Returns:
        `{"texts", "bad_lines"}`: how many were labelled, and how many lines could not be read (and are left out).

    Raises:
        UserError: there is no such file or model, or nothing in the file can be read.
    """
    config = load_config(model_dir)
    name = _task_of(config, model_dir)
    tokenizer = load_tokenizer(model_dir)
    length = window_length(config, tokenizer, max_length, stride or 0)
    labels = [config.id2label[number] for number in range(config.num_labels)]
    adapter = TASKS[name](labels, tokenizer, length, length // 8 if stride is None else stride)
    adapter.take(config)
    model = load_model(adapter.auto_class, model_dir, config)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    texts = _Texts(input, text_column)
    with _writer(output) as write, progress(None, "predict", unit="text") as bar:
        source = iter(texts)
        while chunk := list(islice(source, CHUNK)):
            for record in _label(adapter, model, chunk, batch_size):
                write(json.dumps(record, ensure_ascii=False) + "\n")
            bar.update(len(chunk))
        if not texts.read:
            raise UserError(texts.first_problem or f"{input}: no text in it")
    if texts.bad:
        warn(f"{texts.bad} lines could not be read and are left out; the first: {texts.first_problem}")
    if output is not None:
        say(f"{texts.read} texts labelled: {output}")
    return {"texts": texts.read, "bad_lines": texts.bad}


class _Texts:
    """The texts of a file, and a count of its bad lines."""

    def __init__(self, path: Path, text_column: str) -> None:
        self.path = path
        self.text_column = text_column
        self.read = self.bad = 0
        self.first_problem: str | None = None
        self._is_json = (path.with_suffix("") if path.suffix == ".gz" else path).suffix in (".jsonl", ".json")

    def __iter__(self) -> Iterator[str]:
        for number, raw in read_raw_lines(self.path):
            place = f"{self.path}:{number}"
            try:
                text = self._parse(raw, place)
            except UserError as error:
                self.bad += 1
                self.first_problem = self.first_problem or str(error)
                continue
            if text is not None:
                self.read += 1
                yield text

    def _parse(self, raw: bytes, place: str) -> str | None:
        try:
            line = raw.decode("utf-8").rstrip("\r\n").removeprefix("\ufeff")
        except UnicodeDecodeError:
            raise UserError(f"{place}: not UTF-8 text") from None
        if not line.strip():
            return None
        if not self._is_json:
            return line
        row = parse_json_line(line, place)
        text = row.get(self.text_column)
        if not isinstance(text, str):
            raise UserError(f"{place}: no text in '{self.text_column}'; the columns are {', '.join(row)}")
        return text


def split_words(text: str) -> list[tuple[int, int]]:
    """The character spans of words and punctuation marks; combining and joining marks stay with their word."""
    spans: list[tuple[int, int]] = []
    after_mark = False
    for match in re.finditer(r"\w+|[^\w\s]", text):
        start, end = match.span()
        mark = unicodedata.category(text[start]) in ("Mn", "Mc", "Me", "Cf")
        joins = mark or (after_mark and (text[start].isalnum() or text[start] == "_"))
        if joins and spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
        after_mark = mark
    return spans


def _label(adapter: TaskAdapter, model: PreTrainedModel, texts: list[str], batch_size: int) -> Iterator[dict[str, Any]]:
    examples: list[Example] = [{"text": text} for text in texts]
    if adapter.reads_conll:
        for example in examples:
            example["spans"] = split_words(example["text"])
            example["tokens"] = [example["text"][start:end] for start, end in example["spans"]]
    features = adapter.encode(examples)
    predictions = adapter.predictions(examples, features, logits_of(adapter, model, features, batch_size))
    for example, prediction in zip(examples, predictions, strict=True):
        if adapter.reads_conll:
            prediction = {"entities": entities(example, prediction)}
        yield {"text": example["text"], **prediction}


def entities(example: Example, prediction: Prediction) -> list[dict[str, Any]]:
    """Tags of words as spans of the text."""
    found = []
    for name, first, last in get_entities(prediction["tags"]):
        start, end = example["spans"][first][0], example["spans"][last][1]
        scores = prediction["scores"][first : last + 1]
        found.append(
            {
                "type": name,
                "start": start,
                "end": end,
                "text": example["text"][start:end],
                "score": sum(scores) / len(scores),
            }
        )
    return found


def _task_of(config: PretrainedConfig, model_dir: str | Path) -> str:
    for name in TASKS:
        if TASKS[name].serves(config):
            return name
    architecture = (config.architectures or ["no architecture"])[0]
    raise UserError(f"{model_dir}: a {architecture} labels nothing; give a fine-tuned model, as in runs/…/tasks/…")


@contextlib.contextmanager
def _writer(output: Path | None) -> Iterator[Any]:
    """A function that takes lines; a file appears under its name only when all is written."""
    if output is None:
        yield sys.stdout.write
        return
    beside = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8") as handle:
            yield handle.write
        beside.replace(output)
    except OSError as error:
        raise UserError(f"{output}: can't write: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
