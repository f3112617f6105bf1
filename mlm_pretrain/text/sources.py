"""Where text comes from. A source is a function from its section of the config to a stream of rows.

To add one, register a function that returns an `IterableDataset` of rows with `text` (str, or None) and `source`
(str, the label in the records) and, if it wishes, `dropped`: None, or the reason for which the row is no document.
Nothing is filtered here; what is null, empty or dropped is counted further on (`mixture.document`). Files give raw
rows, with the key `undecoded`, which are decoded there too: rows that a stream skips cost next to nothing.

Every stream, and each of its shards (`shard(num_shards=stream.num_shards, index=…)`), can be resumed at any row by its
`state_dict()` and `load_state_dict()`. That rules out shuffle buffers and batched maps in a source. Shards are what
is read in parallel: the more the better, up to some thousands.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import HfApi

from mlm_pretrain.config import SourceConfig
from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.io.files.reading import Reading
from mlm_pretrain.registry import Registry
from mlm_pretrain.text import installed_docs
from mlm_pretrain.text.datasets_cache import settle_datasets_cache
from mlm_pretrain.text.files.listing import check_files, cut_files, documents_of, find_files, fingerprint_files
from mlm_pretrain.text.files.readers import as_text, read_rows

Source = Callable[[SourceConfig], datasets.IterableDataset]
SOURCES: Registry[Source] = Registry("text source", key="text.sources.source")

_FILE_BUILDERS = {"json", "csv", "parquet", "text", "arrow"}
"""What `load_dataset` takes as a path for a format rather than for a dataset."""
FEW_SHARDS = 64
"""A hub dataset with fewer is divided further where its format allows; that reads each file's footer."""
_OWN_KEYS = {"path", "name", "split", "revision", "data_dir", "data_files", "streaming", "trust_remote_code"}


def source_label(config: SourceConfig) -> str:
    """What the records call a source: its `label`, or a short name without folders."""
    if config.label:
        return config.label
    if config.source == "files":
        path = config.path if isinstance(config.path, str) else (config.path or ["files"])[0]
        plain = [part for part in Path(path).parts if not any(sign in part for sign in "*?[")]
        return Path(plain[-1]).name.split(".")[0] or "files" if plain else "files"
    if config.source == "hub" and isinstance(config.path, str):
        path = Path(config.path).name if Path(config.path).is_dir() else config.path
        return f"{path}/{config.name}" if config.name else path
    return config.source


@SOURCES.register("files")
def files(config: SourceConfig) -> datasets.IterableDataset:
    """Local files: `path` is a file, a directory, a glob pattern or a list of them.

    Plain text (.txt, .text, .md, .rst, and any unknown suffix of a file named outright) has one document per line,
    paragraph or file (`document`; by default per paragraph where a file has blank lines, else per line); JSON lines
    (.jsonl, .json, .ndjson), .csv, .tsv and .parquet have one per row, in `text_column`. Each may be compressed (.gz,
    .zst, .xz, .bz2), and formats may be mixed. A row is dropped as `undecodable` where a JSON line is malformed, a CSV
    row has another number of fields than the header, or bytes are not valid in `encoding`; as `not_text` where the
    column holds something else than a string; as `header` where it repeats the header; as `line_too_long` where a line
    of a JSON file or a table has more characters than can be held.

    Shards of the stream are pieces of files (see `cut_files`).

    Raises:
        UserError: nothing is there, a file can't be read or lacks the column, or all files are empty.
    """
    names = find_files(config.path)
    check_files(names, config.text_column, Reading.of(config))
    return _stream(names, source_label(config), config.text_column, config.document, Reading.of(config))


@SOURCES.register("installed_docs")
def installed_documentation(config: SourceConfig) -> datasets.IterableDataset:
    """The documentation strings of the packages installed here, or of `packages` alone; see `installed_docs.py`.

    Raises:
        UserError: a package isn't installed, or the cache can't be written.
    """
    file = installed_docs.extract(config.packages)
    return _stream([str(file)], source_label(config), "text", config.document, Reading())


def _stream(
    names: list[str], label: str, text_column: str, document: str | None, reading: Reading
) -> datasets.IterableDataset:
    # The list is what `datasets` shards by; to take out a shard it copies all arguments for each of them, so that the
    # others are bound beforehand. No `features`: checking them takes longer than the reading.
    read = functools.partial(read_rows, label=label, text_column=text_column, document=document, reading=reading)
    pieces = cut_files(names, text_column, document, reading.encoding)
    settle_datasets_cache()
    return datasets.IterableDataset.from_generator(read, gen_kwargs={"pieces": pieces})


@SOURCES.register("hub")
def hub(config: SourceConfig) -> datasets.IterableDataset:
    """A dataset of the Hugging Face Hub, or a local dataset folder, streamed by `datasets.load_dataset`.

    `path`, `name`, `split`, `revision`, `data_dir` and `data_files` are its arguments; further ones go in `options`.
    No code of a dataset is ever run.

    Raises:
        UserError: the dataset, split, or column isn't there, or can't be reached.
    """
    dataset = _load(config)
    if dataset.num_shards < FEW_SHARDS:
        dataset = dataset.reshard()  # Parquet: a shard per row group; other formats stay as they are
    columns = dataset.column_names or list(next(iter(dataset), {}))
    if not columns:
        raise UserError(f"{config.path}: the split '{config.split}' has no rows")
    if config.text_column not in columns:
        hint = nearest(config.text_column, columns)
        raise UserError(
            f"{config.path}: no column '{config.text_column}' (text.sources.text_column); "
            f"columns: {', '.join(columns)}{hint if 'did you mean' in hint else ''}"
        )
    arguments = {"text_column": config.text_column, "label": source_label(config)}
    chosen = dataset.select_columns([config.text_column])
    return chosen.map(_hub_row, fn_kwargs=arguments, remove_columns=[config.text_column])


def _load(config: SourceConfig) -> datasets.IterableDataset:
    if not isinstance(config.path, str):
        raise UserError("text.sources.path: source 'hub' needs one path: a dataset's repository, or a dataset folder")
    for key in sorted(_OWN_KEYS & set(config.options)):
        raise UserError(f"text.sources.options: '{key}' cannot be set here; allowed: other load_dataset arguments")
    if config.path in _FILE_BUILDERS:
        _data_files(config)
    settle_datasets_cache()
    try:
        return datasets.load_dataset(
            config.path,
            config.name,
            split=config.split,
            revision=config.revision,
            data_dir=config.data_dir,
            data_files=config.data_files,
            streaming=True,
            **config.options,
        )
    except Exception as error:  # whatever the network, the repository or its files make `load_dataset` raise
        raise UserError(f"{config.path}: cannot load this dataset (text.sources.path): {_first_line(error)}") from error


def _data_files(config: SourceConfig) -> list[str]:
    """The local files that `data_files` stands for; none where they are remote."""
    given = config.data_files
    entries = list(given.values()) if isinstance(given, dict) else [given]
    names = [name for entry in entries for name in ([entry] if isinstance(entry, str) else entry or [])]
    if not names:
        raise UserError(f"text.sources.data_files: '{config.path}' is a file format; give its files as data_files")
    return [] if any("://" in name for name in names) else find_files(names)


def _hub_row(row: dict[str, Any], text_column: str, label: str) -> dict[str, str | None]:
    text, dropped = as_text(row[text_column])
    return {"text": text, "source": label, "dropped": dropped}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def kinds_of_documents(config: SourceConfig) -> dict[str, int]:
    """What a document is in a source's files of plain text: how many are read by line, by paragraph, or whole.

    Raises:
        UserError: the files are gone.
    """
    if config.source != "files":
        return {}
    return documents_of(find_files(config.path), config.document, config.encoding)


def fingerprint_source(config: SourceConfig) -> dict[str, Any]:
    """The identity of the corpus behind a source, as plain JSON data; equal for equal corpora, wherever they lie.

    Files and local dataset folders: name, size and digest of each file, and how they are read. Hub: the commit that
    the revision means. `installed_docs`: the versions of Python, of what is installed, and of the extraction. Any
    other source: its config.

    Raises:
        UserError: the files are gone, or the Hub can't be reached.
    """
    reading: dict[str, Any] = {"source": config.source, "text_column": config.text_column}
    if config.source == "files":
        names = find_files(config.path)
        reading |= {"documents": kinds_of_documents(config), "encoding": config.encoding}
        reading |= config.model_dump(include={"quoting", "delimiter"}, exclude_none=True)
        return {**reading, "files": fingerprint_files(names)}
    if config.source == "installed_docs":
        return {"source": config.source, **installed_docs.identity(config.packages)}
    if config.source == "hub" and isinstance(config.path, str):
        keys = {"name", "split", "data_files", "data_dir", "options"}
        return {**reading, **config.model_dump(mode="json", include=keys), **_hub_identity(config, config.path)}
    return config.model_dump(mode="json")


def _hub_identity(config: SourceConfig, path: str) -> dict[str, Any]:
    if Path(path).is_dir():
        names = sorted(str(file) for file in Path(path).rglob("*") if file.is_file())
        visible = [name for name in names if "/." not in name.removeprefix(path)]
        return {"files": fingerprint_files(visible)}
    if path in _FILE_BUILDERS:
        names = _data_files(config)
        return {"path": path, "data_files": None, "files": fingerprint_files(names)} if names else {"path": path}
    try:
        return {"path": path, "revision": HfApi().dataset_info(path, revision=config.revision).sha}
    except Exception as error:  # network, authorisation, or no such dataset or revision
        raise UserError(f"{path}: cannot ask the Hub for its revision: {_first_line(error)}") from error
