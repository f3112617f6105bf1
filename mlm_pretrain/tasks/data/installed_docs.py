"""Two labelled sets from the documentation of the installed packages, labelled by those who wrote it.

*library*: which package a documentation string comes from, by its first 150 characters. The names of all the packages,
and what they are usually imported as, are taken out of every text, so that neither their presence nor their absence
tells the label.

*inline code*: the names that authors set as code, between double backticks. The markup is taken away, so that what is
code has to be read off the words and the sentence around them.

Test examples come from held-out documents only, and train and validation examples from the others only.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from mlm_pretrain.errors import UserError
from mlm_pretrain.text.installed_docs import extract
from mlm_pretrain.text.mixture import is_held_out

MAX_EXAMPLES = {"train": 8000, "validation": 1000, "test": 1000}
VALIDATION_SHARE = 0.1
"""Of the documents that are not held out."""

LIBRARIES = {
    "torch": r"\w*torch\w*",
    "transformers": r"transformers|\w*hugging_?face\w*",
    "sympy": r"\w*sympy\w*",
    "stdlib": r"\w*python\w*",
    "scipy": r"\w*scipy\w*",
    "pandas": r"\w*pandas\w*",
    "sklearn": r"\w*sklearn\w*|\w*scikit_?learn\w*|scikits?",
    "networkx": r"\w*networkx\w*",
}
"""The best documented packages of those that this package needs (by number of documents), and their names."""
MIN_CHARACTERS, MAX_CHARACTERS = 80, 150

ENTITY = "CODE"
MIN_TOKENS, MAX_TOKENS = 5, 40

Splits = dict[str, list[dict[str, Any]]]


class _Document(NamedTuple):
    text: str
    package: str
    split: str


def load_examples(task: str, held_out_fraction: float) -> Splits:
    """The labelled set for a kind of task.

    Args:
        task: `classification` for the library set, `ner` for inline code; there are no others.
        held_out_fraction: share of the documents that pretraining holds out (`text.validation_fraction`).

    Returns:
        `train`, `validation` and `test`, each in a fixed random order, so that the first k are a fair sample.
        classification: `{"text": str, "label": str}`, where the labels take turns and are equally frequent.
        ner: `{"tokens": list[str], "tags": list[str]}`, tags in IOB2 (`B-CODE`, `I-CODE`, `O`).

    Raises:
        UserError: too few documents are held out, too few packages are installed, or there is no set for the task.
    """
    check_kind(task)
    documents = _documents(extract(), held_out_fraction)
    examples = _library(documents) if task == "classification" else _inline_code(documents)
    for split, rows in examples.items():
        if not rows:
            raise UserError(
                f"tasks: source 'installed_docs' has no {split} examples for {task} at text.validation_fraction: "
                f"{held_out_fraction}; 0.05 gives several hundred"
            )
    return examples


def check_kind(task: str) -> None:
    """
    Raises:
        UserError: there is no set for this kind of task.
    """
    if task not in ("classification", "ner"):
        raise UserError(f"tasks: source 'installed_docs' has sets for classification and ner, none for {task}")


@functools.lru_cache(maxsize=1)
def _documents(extracted: Path, held_out_fraction: float) -> list[_Document]:
    """All documents in the order of a hash, each in its split; both sets are made of the same list.

    Args:
        extracted: the file of `extract`, whose name says what is in it.
    """
    table = pq.read_table(extracted, columns=["text", "package"])
    rows = zip(table["text"].to_pylist(), table["package"].to_pylist(), strict=True)
    ordered = sorted((_hash(text), text, package) for text, package in rows)
    return [_Document(text, package, _split(text, held_out_fraction)) for _, text, package in ordered]


def _split(text: str, held_out_fraction: float) -> str:
    if is_held_out(text, held_out_fraction):
        return "test"
    return "validation" if _hash("validation" + text) < VALIDATION_SHARE else "train"


def _hash(text: str) -> float:
    """A number in [0, 1), independent of the one that decides what is held out."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"tasks").digest()
    return int.from_bytes(digest, "big") / 2**64


# -- library -----------------------------------------------------------------------------------------------------

_NAME = re.compile("|".join([*LIBRARIES.values(), r"\w*numpy\w*"]), re.IGNORECASE)
_IMPORT_LINE = re.compile(r"^[^\n]*\b(?:from\s+[\w.]+\s+import|import\s+[\w.]+)\b[^\n]*\n?", re.MULTILINE)
_URL = re.compile(r"""\b(?:https?|ftp)://[^\s"'`<>)]+""")
_PHRASE = re.compile(r"scikits?[- ]learn|hugging face|🤗", re.IGNORECASE)
_PATH = re.compile(r"[~!]?\.?\w+(?:\.\w+)*")
_ALIASES = {"np", "pd", "plt", "sp", "nx", "tf", "nn", "F", "sk", "sm"}


def anonymise(text: str) -> str:
    """Take the names of all `LIBRARIES` out of a text: in prose, dotted paths, import lines, aliases and addresses.

    Of a dotted path the last part stays (`torch.nn.Linear`: `Linear`).
    """
    for pattern in (_IMPORT_LINE, _URL, _PHRASE):
        text = pattern.sub("", text)
    return re.sub(r"(?<=\S) {2,}", " ", _PATH.sub(_without_names, text))


def _without_names(path: re.Match[str]) -> str:
    parts = path[0].lstrip("~!.").split(".")
    if any(map(_is_name, parts)) or (parts[0] in _ALIASES and len(parts) > 1):
        return parts[-1] if len(parts) > 1 and not _is_name(parts[-1]) else ""
    return path[0]


@functools.cache
def _is_name(word: str) -> bool:
    return _NAME.fullmatch(word) is not None


def _library(documents: list[_Document]) -> Splits:
    """Equally many examples of each package; of texts that begin alike only one, and rather in test than in train."""
    splits: Splits = {"train": [], "validation": [], "test": []}
    installed = {document.package for document in documents} & set(LIBRARIES)
    if len(installed) < 2:
        raise UserError(f"tasks: the library set needs two of the packages {', '.join(LIBRARIES)}; install more")
    seen: set[str] = set()
    for split in ("test", "validation", "train"):
        limit = MAX_EXAMPLES[split] // len(installed)
        texts: dict[str, list[str]] = {package: [] for package in LIBRARIES if package in installed}
        for document in documents:
            group = texts.get(document.package)
            if document.split != split or group is None or len(group) == limit:
                continue
            text = _excerpt(document.text)
            beginning = re.sub(r"[\W\d]+", "", text[:MIN_CHARACTERS]).lower()
            if len(text) >= MIN_CHARACTERS and beginning not in seen:
                seen.add(beginning)
                group.append(text)
        splits[split] = _take_turns(texts)
    return splits


def _excerpt(text: str) -> str:
    """The anonymised beginning of a document, cut between words."""
    plain = anonymise(text[: 4 * MAX_CHARACTERS]).strip()
    if len(plain) <= MAX_CHARACTERS:
        return plain
    return plain[: MAX_CHARACTERS + 1].rsplit(None, 1)[0][:MAX_CHARACTERS]


def _take_turns(texts: dict[str, list[str]]) -> list[dict[str, Any]]:
    """The labels in turn, until the one with the fewest texts runs out."""
    rounds = zip(*([{"text": text, "label": label} for text in group] for label, group in texts.items()), strict=False)
    return list(chain.from_iterable(rounds))


# -- inline code -------------------------------------------------------------------------------------------------

_LITERAL = re.compile(r"``([^`\n]+)``")
_CODE = re.compile(r"(?!(?:None|True|False|[\d.]+)\b)[\w.]+(?: [\w.]+){0,2}(?:\(\))?")
"""A name, or a few. Values such as None are code wherever they are, which nobody needs to read a sentence for."""
_TOKEN = re.compile(r"\w+(?:[.'’]\w+)*|([^\w\s])\1*")


def _inline_code(documents: list[_Document]) -> Splits:
    splits: Splits = {"train": [], "validation": [], "test": []}
    seen: set[tuple[str, ...]] = set()
    for split in ("test", "validation", "train"):
        pieces = (piece for document in documents if document.split == split for piece in _pieces(document.text))
        for tokens, tags in pieces:
            if tuple(tokens) not in seen:
                seen.add(tuple(tokens))
                splits[split].append({"tokens": tokens, "tags": tags})
        splits[split] = sorted(splits[split], key=lambda row: _hash(" ".join(row["tokens"])))[: MAX_EXAMPLES[split]]
    return splits


def _pieces(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """The paragraphs that have code in them, as tokens and tags; long ones are cut at line ends."""
    for paragraph in re.split(r"\n\s*\n", text):
        found = _LITERAL.findall(paragraph)
        # Sessions at the prompt and what introduces a block of code are no sentences; other markup would be left in
        # the text, or be code without its label.
        if not found or ">>>" in paragraph or "::" in paragraph or not all(map(_CODE.fullmatch, found)):
            continue
        if "`" in _LITERAL.sub("", paragraph):
            continue
        tokens: list[str] = []
        tags: list[str] = []
        for line_tokens, line_tags in map(_line, paragraph.split("\n")):
            if tokens and len(tokens) + len(line_tokens) > MAX_TOKENS:
                if _is_example(tokens, tags):
                    yield tokens, tags
                tokens, tags = [], []
            tokens, tags = tokens + line_tokens, tags + line_tags
        if _is_example(tokens, tags):
            yield tokens, tags


def _is_example(tokens: list[str], tags: list[str]) -> bool:
    words = sum(token[0].isalnum() for token in tokens)
    return MIN_TOKENS <= len(tokens) <= MAX_TOKENS and 2 * words > len(tokens) and any(tag != "O" for tag in tags)


def _line(line: str) -> tuple[list[str], list[str]]:
    """Tokens and tags of a line, the markup taken away; call brackets too, which authors write or leave out."""
    tokens: list[str] = []
    tags: list[str] = []
    for number, text in enumerate(_LITERAL.split(line)):
        words = [token[0] for token in _TOKEN.finditer(text.replace("()", ""))]
        tokens += words
        if number % 2:  # what the pattern has caught
            tags += [f"{'I' if place else 'B'}-{ENTITY}" for place in range(len(words))]
        else:
            tags += ["O"] * len(words)
    return tokens, tags
