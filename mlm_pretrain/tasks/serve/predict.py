"""Labelling texts with a fine-tuned model: a file of any size in, its lines with predictions out, in the same order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mlm_pretrain import __version__
from mlm_pretrain.config import TaskConfig, fingerprint
from mlm_pretrain.console.bars import progress
from mlm_pretrain.console.telemetry import say, warn
from mlm_pretrain.errors import UserError
from mlm_pretrain.escaping import counted
from mlm_pretrain.io.files.reading import Reading
from mlm_pretrain.io.files.records import Record, Records
from mlm_pretrain.models.loading import typed
from mlm_pretrain.tasks.adapter import Example
from mlm_pretrain.tasks.data.examples import check_characters
from mlm_pretrain.tasks.inference.logits import cut_texts
from mlm_pretrain.tasks.serve.finished import FinishedModel
from mlm_pretrain.tasks.serve.output import Output, open_output

CHUNK = 1024
"""Rows that are in memory together; inside a chunk they are sorted by length."""
INPUTS = ("text", "text_pair", "question", "context")
"""What a line of the output repeats of its example."""

Columns = dict[str, Any]


def predict(
    model_dir: str | Path,
    input: Path,
    output: Path | None = None,
    *,
    text_column: str = "text",
    text_pair_column: str | None = None,
    question_column: str = "question",
    context_column: str = "context",
    batch_size: int = 32,
    max_length: int | None = None,
    stride: int | None = None,
    bf16: bool = False,
    top_k: int | None = None,
    encoding: str = "utf-8",
    quoting: str | int | None = None,
    delimiter: str | None = None,
    trust_remote_code: bool = False,
) -> dict[str, int]:
    """Label every text of a file.

    Args:
        model_dir: a fine-tuned model, a folder or a Hub repository; its architecture tells the task.
        input: jsonl (`.jsonl`, `.json`, `.ndjson`), `.csv` or `.tsv` with a header, `.parquet`, or else one text a
            line; `.gz`, `.zst`, `.xz`, `.bz2` of each. Empty lines are skipped.
        output: `.jsonl`; of tasks with single values also `.csv` or `.tsv` (where a text that spreadsheets would take
            for a formula, as `=1+1`, has an apostrophe before it); by default lines of JSON on standard
            output. Per row, in the order of the input, its `id` if it has one, `text` (and `text_pair`, or `question`
            and `context`), and what the task says of it: `label` and `score`; `entities`, a list of `{"type", "start",
            "end", "text", "score"}` with `start` and `end` in characters of the text; and so on. The file appears when
            it is complete. Until then it grows under a hidden name, and if a run was killed, the same command resumes
            there and comes to the same bytes. Lines that can't be read are dropped, and kept in
            `<output>.bad.jsonl` as `{"line", "problem", "raw"}`.
        batch_size: rows of the greatest length in a batch, of shorter ones more; on a CPU batches are small anyway.
        max_length, stride: tokens per window, and those that neighbouring windows share (for labels of words an
            eighth by default).
        bf16: compute in bfloat16 autocast: faster where the machine has instructions for it, and rounded.
        top_k: print the `scores` of so many labels, the highest first. By default a class comes with its own score, and
            several labels a text with those of all, or of the ten highest where the model has more than a hundred.
        encoding, quoting, delimiter: how text is read, as in a task's config.
        trust_remote_code: run code that the model brings.

    Returns:
        `{"texts", "bad_lines", "truncated"}`: how many were labelled, how many lines could not be read, and how many
        texts were cut.

    Raises:
        UserError: there is no such file or model, nothing in the file can be read, or the output can't be written.
    """
    if output is not None and output.exists() and input.exists() and output.samefile(input):
        raise UserError(f"{output}: the output would replace the input; name another file")
    if batch_size < 1:
        raise UserError(f"batch_size: {batch_size}; at least 1")
    model = FinishedModel(typed(model_dir, trust_remote_code), max_length, stride, bf16)
    if top_k is not None:
        if not hasattr(model.adapter, "top_k"):
            raise UserError(f"top_k: {model_dir} does {model.task}, which has no scores of classes; leave it out")
        model.adapter.top_k = top_k
    task = model.task_config(
        text_column=text_column,
        text_pair_column=text_pair_column,
        question_column=question_column,
        context_column=context_column,
    )
    if model.adapter.takes_pairs and text_pair_column is None:
        warn("this model was trained on pairs of texts; name the column of the second: --text-pair-column")
    reading = Reading.checked(encoding, quoting, delimiter)
    how = dataclasses.asdict(reading)
    identity = fingerprint(__version__, _identity_of(input), model.fingerprint(), task, batch_size, CHUNK, top_k, how)
    with open_output(output, identity) as out:
        _fill(out, model, task, input, reading, batch_size)
    done = out.progress
    if done.bad_lines:
        kept = "" if output is None else f", kept in {output}.bad.jsonl"
        lines = counted(done.bad_lines, "line")
        warn(f"{lines} could not be read: dropped from the output{kept}; the first: {done.first_problem}")
    if done.truncated:
        warn(cut_texts(done.truncated, model.adapter.max_length))
    if output is not None:
        say(f"{counted(done.texts, 'text')} labelled: {output}")
    return {"texts": done.texts, "bad_lines": done.bad_lines, "truncated": done.truncated}


def _fill(out: Output, model: FinishedModel, task: TaskConfig, input: Path, reading: Reading, batch_size: int) -> None:
    """Label what isn't yet."""
    done = out.progress
    if done.lines:
        say(f"{counted(done.texts, 'text')} labelled already; resumed after line {done.lines} of {input}")
    if not done.complete:
        model.truncated = done.truncated
        records = Records(input, reading, text_column=task.text_column, skip=done.lines)
        coming = iter(records)
        with progress(None, "predict", unit="text", initial=done.texts) as bar:
            while chunk := list(islice(coming, CHUNK)):
                examples, columns, bad = _examples(chunk, model, task)
                done.first_problem = done.first_problem or (bad[0]["problem"] if bad else None)
                if not examples and not done.texts:
                    same = f"; the same for each of the first {len(chunk):,} lines" if len(chunk) > 1 else ""
                    raise UserError(f"{done.first_problem}{same}")
                predictions = model.predictions(examples, batch_size)
                lines = [
                    {**own, **model.adapter.record(example, prediction)}
                    for own, example, prediction in zip(columns, examples, predictions, strict=True)
                ]
                done.lines = chunk[-1].last_line
                done.texts += len(examples)
                done.bad_lines += len(bad)
                done.truncated = model.truncated
                out.write(lines, bad)
                bar.update(len(examples))
        if not done.texts:
            raise UserError(f"{input}: no text in it")
        say(str(records.tally))
    out.finish()


def _examples(
    chunk: Sequence[Record], model: FinishedModel, task: TaskConfig
) -> tuple[list[Example], list[Columns], list[Columns]]:
    """The examples, what lines of the output repeat of each, and the bad lines."""
    examples: list[Example] = []
    columns: list[Columns] = []
    bad: list[Columns] = []
    for record in chunk:
        if record.dropped and not record.problem:
            continue
        try:
            if record.problem:
                raise UserError(record.problem)
            example = model.adapter.make_example(record.row, task, record.place, labelled=False)
            own = {name: record.row[name] for name in ("id",) if name in record.row}
            own |= {name: example[name] for name in INPUTS if name in example}
            check_characters(own, record.place)
        except UserError as error:
            bad.append({"line": record.line, "problem": str(error), "raw": record.raw})
        else:
            examples.append(example)
            columns.append(own)
    return examples, columns, bad


def _identity_of(input: Path) -> list[Any]:
    """What tells an input from another, without reading it whole.

    Raises:
        UserError: it can't be read.
    """
    try:
        stat = input.stat()
        return [str(input), stat.st_size, stat.st_mtime_ns]
    except FileNotFoundError:
        raise UserError(f"{input}: no such file") from None
    except OSError as error:
        raise UserError(f"{input}: {error.strerror or error}") from None
