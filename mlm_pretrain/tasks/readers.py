"""Labelled examples from files: jsonl, csv and tsv, CoNLL; each also gzipped.

An example is a plain dict. A text carries `{"text": str, "label": str}`, a sentence of words
`{"tokens": [str], "tags": [str]}` with IOB2 tags; both carry `"place"`, the file and line that errors name.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, cast

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError, nearest

Example = dict[str, Any]
RowKind = Literal["text", "tokens"]
"""What an example of a task is: one text with a label, or a list of words with a tag each."""

_TAG = re.compile(r"O|[BI]-\S+")


def read_examples(file: str | Path, kind: RowKind, task: TaskConfig) -> list[Example]:
    """Read one labelled file whole; its ending tells the format.

    Args:
        file: `.jsonl`, `.csv` or `.tsv` with texts; `.jsonl` or CoNLL (`.conll`, `.txt`, `.tsv`, `.bio`, `.iob`,
            `.iob2`) with words; each may end in `.gz`.
        task: names the columns.

    Raises:
        UserError: with file and line, for whatever can't be read.
    """
    path = Path(file)
    ending = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    known = _READERS[kind]
    if ending not in known:
        raise UserError(f"{path}: a file of {kind} with labels ends in {', '.join(known)} (or these with .gz)")
    examples = list(known[ending](path, task))
    if not examples:
        raise UserError(f"{path}: no examples in it; give a file with labelled {kind}")
    return examples


def make_example(row: dict[str, Any], kind: RowKind, task: TaskConfig, place: str) -> Example:
    """Check one row of any source and bring it into the form of an example.

    Raises:
        UserError: a column is missing, or a value isn't what the task needs.
    """
    if kind == "text":
        text = _column(row, "text_column", task, place)
        if not isinstance(text, str):
            raise UserError(f"{place}: {task.text_column} is {text!r}; it must be a string")
        return {"text": text, "label": _label(_column(row, "label_column", task, place), task, place), "place": place}
    tokens = _column(row, "tokens_column", task, place)
    tags = _column(row, "tags_column", task, place)
    for name, values in ((task.tokens_column, tokens), (task.tags_column, tags)):
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise UserError(f"{place}: {name} must be a list of strings")
    if len(tokens) != len(tags):
        raise UserError(f"{place}: {len(tokens)} {task.tokens_column} but {len(tags)} {task.tags_column}")
    for tag in tags:
        check_tag(tag, place)
    return {"tokens": tokens, "tags": valid_iob2(tags), "place": place}


def check_tag(tag: str, place: str) -> None:
    """
    Raises:
        UserError: the tag is not `O`, `B-TYPE` or `I-TYPE`.
    """
    if not _TAG.fullmatch(tag):
        raise UserError(f"{place}: '{tag}' is not an IOB2 tag; allowed are O, B-TYPE and I-TYPE")


def valid_iob2(tags: Iterable[str]) -> list[str]:
    """Read an I- that continues nothing as the B- of a new entity, as conlleval does.

    This also turns IOB1 tags (B- only between neighbours of one type) into the IOB2 tags of the same entities.
    """
    valid: list[str] = []
    previous = "O"
    for tag in tags:
        starts = tag.startswith("I-") and previous[2:] != tag[2:]
        valid.append(f"B-{tag[2:]}" if starts else tag)
        previous = tag
    return valid


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file with their numbers, counted from 1.

    Raises:
        UserError: the file can't be opened, or a line is not UTF-8.
    """
    for number, raw in read_raw_lines(path):
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{path}:{number}: not UTF-8 text; convert the file (iconv -t UTF-8)") from None


def read_raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """As `read_lines`, before decoding."""
    try:
        # cast: gzip.open's type doesn't say that it is a binary stream.
        with cast(IO[bytes], gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as handle:
            yield from enumerate(handle, start=1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except EOFError:
        raise UserError(f"{path}: the gzip file is cut off; fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def parse_json_line(line: str, place: str) -> dict[str, Any]:
    """
    Raises:
        UserError: the line is no JSON object.
    """
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        problem = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise UserError(f"{place}: not valid JSON ({problem}); jsonl has one object a line") from None
    if not isinstance(row, dict):
        raise UserError(f"{place}: a JSON {type(row).__name__}; jsonl has one object a line")
    return row


def _jsonl(kind: RowKind) -> Callable[[Path, TaskConfig], Iterator[Example]]:
    def read(path: Path, task: TaskConfig) -> Iterator[Example]:
        for number, line in read_lines(path):
            if line.strip():
                place = f"{path}:{number}"
                yield make_example(parse_json_line(line, place), kind, task, place)

    return read


def _delimited(delimiter: str) -> Callable[[Path, TaskConfig], Iterator[Example]]:
    def read(path: Path, task: TaskConfig) -> Iterator[Example]:
        csv.field_size_limit(sys.maxsize)
        # strict: an unbalanced quote is an error rather than a field that swallows the lines after it.
        reader = csv.reader((line for _, line in read_lines(path)), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        try:
            for fields in reader:
                place = f"{path}:{reader.line_num}"
                if header is None:
                    header = fields
                elif fields and len(fields) != len(header):
                    raise UserError(f"{place}: {len(fields)} fields, but the header names {len(header)} columns")
                elif fields:
                    yield make_example(dict(zip(header, fields, strict=True)), "text", task, place)
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: not valid csv: {error}") from None

    return read


def _conll(path: Path, task: TaskConfig) -> Iterator[Example]:
    """First column word, last column tag, by tabs or else blanks; an empty line between sentences.

    Lines that start with -DOCSTART- are skipped, as are comments: `# …` without tabs whose last field is no tag.
    """
    tokens: list[str] = []
    tags: list[str] = []
    first = 0
    for number, line in read_lines(path):
        line = line.rstrip("\r\n")
        fields = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
        comment = line.startswith("# ") and "\t" not in line and not _TAG.fullmatch(fields[-1])
        if line.strip(" \t") and not comment and fields[0] != "-DOCSTART-":
            place = f"{path}:{number}"
            if len(fields) < 2:
                raise UserError(f"{place}: only one column; a line is a word, then a tag, by tab or blank")
            tag = fields[-1].strip(" ")
            check_tag(tag, place)
            first = first or number
            tokens.append(fields[0])
            tags.append(tag)
        elif not comment and tokens:
            yield {"tokens": tokens, "tags": valid_iob2(tags), "place": f"{path}:{first}"}
            tokens, tags, first = [], [], 0
    if tokens:
        yield {"tokens": tokens, "tags": valid_iob2(tags), "place": f"{path}:{first}"}


def _column(row: dict[str, Any], key: str, task: TaskConfig, place: str) -> Any:
    name = getattr(task, key)
    if name not in row:
        hint = nearest(name, map(str, row))
        columns = f" The columns are {', '.join(map(str, row))}" if "allowed" not in hint else ""
        raise UserError(f"{place}: no column '{name}' ({key}){hint}{columns}")
    return row[name]


def _label(value: Any, task: TaskConfig, place: str) -> str:
    """A class as a name: names stay, integers become their digits."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int) or value == "":
        raise UserError(f"{place}: {task.label_column} is {value!r}; a label is a name or an integer")
    return str(value)


_Reader = Callable[[Path, TaskConfig], Iterator[Example]]
_READERS: dict[RowKind, dict[str, _Reader]] = {
    "text": {
        ".jsonl": _jsonl("text"),
        ".json": _jsonl("text"),
        ".csv": _delimited(","),
        ".tsv": _delimited("\t"),
    },
    "tokens": {
        ".jsonl": _jsonl("tokens"),
        ".json": _jsonl("tokens"),
        ".conll": _conll,
        ".txt": _conll,
        ".tsv": _conll,
        ".bio": _conll,
        ".iob": _conll,
        ".iob2": _conll,
    },
}
