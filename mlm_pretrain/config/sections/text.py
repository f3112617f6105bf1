"""The sections about text: where it comes from, its tokenizer, how it becomes rows."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mlm_pretrain.config.base import Bytes, Delimiter, Encoding, Pattern, Positive, QuotingKey, Section


class FilterConfig(Section):
    """Which documents of a source are dropped; every drop is counted by its reason."""

    min_length: Positive | None = None
    """Shortest document, in characters."""
    max_length: Positive | None = None
    """Longest document, in characters."""
    include: Pattern | None = None
    """A regular expression that a document has to match somewhere (as with `re.search`)."""
    exclude: Pattern | None = None
    """A regular expression that it may match nowhere."""


class SourceConfig(Section):
    """One text source. Which keys count depends on `source`; see `mlm_pretrain.text.sources`."""

    source: str
    path: str | list[str] | None = None
    """hub: the dataset repository. files: a file, a directory, a glob pattern, or a list of them."""
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    data_dir: str | None = None
    data_files: str | list[str] | dict[str, Any] | None = None
    text_column: str = "text"
    weight: float = Field(1.0, gt=0)
    """This source's share of the tokens relative to the other sources' weights."""
    max_epochs: Positive | None = None
    """A source repeats as often as its weight asks for; with this, so often at most, and the others go on without."""
    filters: FilterConfig = FilterConfig()
    label: str | None = None
    """What the records call this source; by default it is made from `source`, `path` and `name`."""
    document: Literal["line", "paragraph", "file"] | None = None
    """files: what one document is in a .txt file. By default a paragraph; a line in a file without blank lines (between
    lines, in its first four million characters). Whatever it is, one of more than 131,072 characters is read in parts,
    each of them a document."""
    encoding: Encoding = "utf-8"
    quoting: QuotingKey = None
    """.csv, .tsv: minimal (or 0), a quoted field may hold delimiters and line ends; none (or 3), quotes are characters.
    By default what the beginning of a file shows."""
    delimiter: Delimiter = None
    """.csv, .tsv: the character between two columns; by default a comma, and a tab in .tsv."""
    packages: list[str] | None = None
    """installed_docs: only these packages."""
    options: dict[str, Any] = {}
    """hub: further arguments of `load_dataset`. A source of your own: whatever it takes."""


class TextConfig(Section):
    sources: list[SourceConfig] = Field([SourceConfig(source="installed_docs")], min_length=1)
    stopping_strategy: Literal["first_exhausted", "all_exhausted"] | None = None
    """By default sources repeat until the training budget is spent. Otherwise the run ends sooner, when the first or
    the last of them has been through (once, or `max_epochs` times), as in `datasets.interleave_datasets`."""
    validation_fraction: float = Field(0.005, ge=0.0, lt=0.5)
    """Share of the documents that is held out, chosen by a hash of the text."""
    validation_max_bytes: Bytes = 2_000_000
    """At most this much held-out text is scored (those with the smallest hashes); all of it stays out of training."""


class TokenizerConfig(Section):
    path: str | None = None
    """An existing tokenizer: a folder, a run's `tokenizer/` or a Hub repository."""
    revision: str | None = None
    add_tokens: list[str] = []
    """Words to add to an existing tokenizer (`path`)."""
    algorithm: Literal["bpe", "wordpiece", "unigram"] = "bpe"
    vocab_size: int = Field(16384, ge=300, le=2**24)
    min_frequency: Positive = 2
    max_bytes: Bytes = 1_000_000_000
    """Train on at most this much text, spread evenly over the sources."""
    lowercase: bool = False
    strip_accents: bool = False
    normalization: Literal["nfc", "nfkc"] | None = "nfc"

    @model_validator(mode="after")
    def _added_tokens_need_a_tokenizer(self) -> TokenizerConfig:
        if self.add_tokens and self.path is None:
            raise ValueError("add_tokens extends an existing tokenizer: give tokenizer.path too")
        return self


class StreamConfig(Section):
    sequence_length: int = Field(512, ge=8, le=2**20)
    lanes: int = Field(8, gt=0, le=2**16)
    """Parts in which the text is read side by side, whatever the number of processes; at least as many as there are
    processes × loader workers, best a multiple of the processes."""
    shuffle_window: Bytes = 64_000_000
    """Bytes of text that are shuffled together, over all lanes and sources."""
    packing_buffer: Bytes | None = None
    """Bytes of text that are tokenised and packed into rows at a time, over all lanes and sources; by default 4 MB,
    or more where rows are long."""
    prepared: bool | str = False
    """Train on shards that `mlm-pretrain prepare` has written: true for those of this run, or their folder."""
    dataloader_num_workers: int | None = Field(None, ge=0, le=1024)
    """Processes beside each training process that tokenise and mask; 0: the training process does. By default 0 on a
    CPU, and beside a GPU as many as there are cores and lanes for."""


class PrepareConfig(Section):
    """`mlm-pretrain prepare`: the packed rows of one epoch, written once."""

    deduplicate: bool = False
    """Drop exact copies of documents, over all sources; the first one stays."""
    num_proc: int | None = Field(None, gt=0, le=1024)
    """Processes; by default one a core."""
