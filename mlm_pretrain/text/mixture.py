"""What of the sources is trained on: the held-out split, the drops, and the mixture by weight.

The split is a property of a document: a hash of its text decides, so that a copy of a held-out document never turns
up in training, whatever file, order, seed or epoch it comes from, and no second pass over a stream is needed.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import datasets
import regex

from mlm_pretrain.config import FilterConfig, SourceConfig, TextConfig
from mlm_pretrain.console import bars, telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.files.tally import dropped_in_words
from mlm_pretrain.text.files import long
from mlm_pretrain.text.files.readers import decode_row
from mlm_pretrain.text.sources import SOURCES, fingerprint_source, kinds_of_documents, source_label

MOST_PARTS = 256
"""So many parts of a source the survey tells apart."""
SECONDS_OF_A_FILTER = 5.0
"""Of processor time, for one expression on one document; a second more for each million characters."""


class Document(NamedTuple):
    text: str
    source: str


def is_held_out(text: str, fraction: float) -> bool:
    """Whether a document belongs to the held-out split of this size; a smaller split is part of a larger one."""
    return _hash(text) < fraction


def documents(row: Mapping[str, Any], source: SourceConfig, counts: Counter[str]) -> list[Document]:
    """The document of a source's row; several where it is a long one (see `long.parts`), none where it is dropped.

    Args:
        row: what the source yields.
        source: its section of the config; its `filters` are applied here.
        counts: where the reason of a drop is counted: that of the row, `null`, `empty`, `short`, `long`,
            `not_included` or `excluded`. Filters see the whole row.
    """
    text, reason = decode_row(row, source.text_column) if "undecoded" in row else (row["text"], row.get("dropped"))
    if text is None:
        counts[reason or "null"] += 1
        return []
    reason = reason or (_filtered(text, source.filters) if text.strip() else "empty")
    if reason:
        counts[reason] += 1
        return []
    return [Document(part, row["source"]) for part in long.parts(text)]


def _filtered(text: str, filters: FilterConfig) -> str | None:
    """The reason for which a document is filtered out, or None."""
    if filters.min_length is not None and len(text) < filters.min_length:
        return "short"
    if filters.max_length is not None and len(text) > filters.max_length:
        return "long"
    if filters.include is not None and not _matches("include", filters.include, text):
        return "not_included"
    if filters.exclude is not None and _matches("exclude", filters.exclude, text):
        return "excluded"
    return None


def _matches(key: str, pattern: str, text: str) -> bool:
    """Whether an expression matches somewhere in a text.

    A time limit drops no document: then the order of a run would depend on the machine.

    Raises:
        UserError: it takes too long; some expressions would take years.
    """
    seconds = SECONDS_OF_A_FILTER + len(text) / 1e6
    try:
        return _compiled(pattern).search(text, timeout=seconds) is not None
    except TimeoutError:
        raise UserError(
            f"text.sources.filters.{key}: '{pattern}' takes more than {seconds:.0f} s on the document of {len(text):,} "
            f"characters that begins with {text[:40]!r}; write it without repeats within repeats, as in (a|aa)+"
        ) from None


_compiled = functools.cache(regex.compile)


def source_names(text: TextConfig) -> list[str]:
    """What the records call each source, in the order of the config.

    Raises:
        UserError: two sources go by one name.
    """
    names = [source_label(source) for source in text.sources]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"text.sources: two sources are called '{name}'; give each a `label` of its own")
    return names


def fingerprint_corpus(text: TextConfig) -> dict[str, Any]:
    """The sources' fingerprints by name; see `fingerprint_source`.

    Raises:
        UserError: two sources go by one name; files are gone, or the Hub can't be reached.
    """
    names = source_names(text)
    return {name: fingerprint_source(source) for name, source in zip(names, text.sources, strict=True)}


def open_source(source: SourceConfig) -> datasets.IterableDataset:
    """The stream of a source's rows, each of them for `documents`, from its beginning."""
    return SOURCES[source.source](source)


# -- the survey --------------------------------------------------------------------------------------------------


@dataclass
class Survey:
    """One pass over the sources: a sample to train a tokenizer on, the documents to score, and what was seen."""

    sample: list[str] = field(default_factory=list)
    validation: list[Document] = field(default_factory=list)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By source: documents (to train on), held_out, divided (long ones, of which each part counts as a document),
    bytes, training_bytes, longest (characters of a document before it is divided), dropped (by reason), complete
    (whether all of it was read)."""


def survey(text: TextConfig, sample_bytes: int) -> Survey:
    """Draw a bounded sample of the training documents, and the held-out documents that will be scored.

    Both are uniform samples of what is read: the documents with the smallest hashes are kept, so that memory is
    bounded by the samples and the order of the files doesn't matter. Of a large corpus at most ten times the sample
    is read, evenly from its shards.

    Args:
        text: the sources; a source's weight is its share of both samples.
        sample_bytes: bytes of text wanted for the sample; 0 if no tokenizer is to be trained.

    Raises:
        UserError: a source can't be read, or has no text.
    """
    result = Survey()
    total_weight = sum(source.weight for source in text.sources)
    for name, source in zip(source_names(text), text.sources, strict=True):
        share = source.weight / total_weight
        sample = _SmallestHashes(int(sample_bytes * share))
        scored = _SmallestHashes(int(text.validation_max_bytes * share))
        wanted = max(10 * sample.max_bytes, 1_000_000)
        if text.validation_fraction:
            wanted = max(wanted, int(2 * scored.max_bytes / text.validation_fraction))
        record = _survey_source(source, name, text.validation_fraction, wanted, sample, scored)
        if not record["documents"]:
            raise UserError(
                f"text.sources: '{name}' has no text to train on ({_dropped_words(record['dropped'])}); "
                "check its path, text_column, encoding and filters"
            )
        if kinds := kinds_of_documents(source):
            record["files_by_document"] = kinds
        _say_how_read(name, source, record)
        result.sources[name] = record
        result.sample += sample.texts()
        result.validation += [Document(held_out, name) for held_out in scored.texts()]
    return result


def _say_how_read(name: str, source: SourceConfig, record: dict[str, Any]) -> None:
    """What was read, in a line, and what of the reading wasn't asked for."""
    count = record["documents"] + record["held_out"]
    said = f"{name}: {count:,} documents, the longest has {record['longest']:,} characters"
    telemetry.say(f"{said}; {_dropped_words(record['dropped'])}" if record["dropped"] else said)
    kinds = record.get("files_by_document", {})
    if source.document is None and "line" in kinds:
        where = f" in {kinds['line']:,} of {sum(kinds.values()):,} text files" if len(kinds) > 1 else ""
        telemetry.say(f"{name}: no blank lines{where}, so a document is a line there (text.sources.document)")
    if record["divided"]:
        what = f"documents of more than {long.LONGEST:,} characters, which are read in parts"
        telemetry.say(f"{name}: {what}: {record['divided']:,}")


def _survey_source(
    source: SourceConfig,
    name: str,
    fraction: float,
    wanted_bytes: int,
    sample: _SmallestHashes,
    scored: _SmallestHashes,
) -> dict[str, Any]:
    dropped: Counter[str] = Counter()
    kept = size = held_out = training = divided = longest = 0
    complete = True
    with bars.progress(None, f"read {name}", unit="B") as bar:
        for rows, budget in _evenly(open_source(source), wanted_bytes):
            start = size
            if size >= wanted_bytes:
                complete = False
                break
            for row in rows:
                read = documents(row, source, dropped)
                divided += len(read) > 1
                longest = max(longest, sum(len(part) for part, _ in read))
                for text, _ in read:
                    length = len(text.encode())
                    size += length
                    bar.update(length)
                    if is_held_out(text, fraction):
                        held_out += 1
                        scored.add(text, length)
                    else:
                        kept += 1
                        training += length
                        sample.add(text, length)
                if size - start >= budget:
                    complete = False
                    break
    return {
        "documents": kept,
        "held_out": held_out,
        "divided": divided,
        "longest": longest,
        "bytes": size,
        "training_bytes": training,
        "dropped": dict(sorted(dropped.items())),
        "complete": complete,
    }


def _evenly(dataset: datasets.IterableDataset, wanted_bytes: int) -> Iterator[tuple[datasets.IterableDataset, int]]:
    """The parts of a dataset, each with the bytes to read of it, spread so that the first ones stand for all.

    A part is a shard, or neighbouring ones where there are very many (taking one out costs time by their number). It
    gives a 64th of what is wanted at most (more where there are fewer parts), so that a corpus of large files is read
    from many of them, and one of small files to the end.
    """
    parts = min(dataset.num_shards, MOST_PARTS)
    # The bits of the number from the back: 0, 1/2, 1/4, 3/4, … of the way through (van der Corput).
    bits = max((parts - 1).bit_length(), 1)
    spread = sorted(range(parts), key=lambda number: int(f"{number:0{bits}b}"[::-1], 2))
    for number in spread:
        yield dataset.shard(parts, number) if parts > 1 else dataset, -(-wanted_bytes // min(parts, 64))


class _SmallestHashes:
    """The documents with the smallest hashes, as many as fit in `max_bytes`: a uniform sample in one pass.

    Exact copies of a document have one hash and count once.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._bytes = 0
        self._largest_first: list[tuple[float, str, int]] = []
        self._kept: set[float] = set()

    def add(self, text: str, size: int) -> None:
        key = _hash(text, b"sample")
        if self.max_bytes == 0 or key in self._kept:
            return
        if self._bytes + size > self.max_bytes and self._largest_first and key > -self._largest_first[0][0]:
            return
        heapq.heappush(self._largest_first, (-key, text, size))
        self._kept.add(key)
        self._bytes += size
        while self._bytes > self.max_bytes and len(self._largest_first) > 1:
            dropped, _, freed = heapq.heappop(self._largest_first)
            self._kept.discard(-dropped)
            self._bytes -= freed

    def texts(self) -> list[str]:
        return [text for _, text, _ in sorted(self._largest_first, key=lambda entry: -entry[0])]


def _hash(text: str, purpose: bytes = b"split") -> float:
    """A number in [0, 1) that depends on the text alone; independent numbers for different purposes."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=purpose).digest()
    return int.from_bytes(digest, "big") / 2**64


def _dropped_words(dropped: dict[str, int]) -> str:
    return f"dropped: {dropped_in_words(dropped)}" if dropped else "no rows"
