"""Which format and which compression a file's name means."""

from __future__ import annotations

from pathlib import Path

from mlm_pretrain.errors import UserError

FORMATS = {
    **dict.fromkeys((".txt", ".text", ".md", ".rst"), "text"),
    **dict.fromkeys((".jsonl", ".json", ".ndjson"), "json"),
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
TABLES = ("csv", "tsv")
CONLL = (".conll", ".txt", ".tsv", ".conllu", ".bio", ".iob", ".iob2")
"""What holds a word and its tag a line, if a task labels words."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bzip2"}

_TEXT_TOO = (".txt", ".tsv")
_NOT_TEXT = {
    ".zip",
    ".tar",
    ".tgz",
    ".7z",
    ".rar",
    ".pdf",
    ".doc",
    ".docx",
    ".xls",
    ".xlsx",
    ".epub",
    ".arrow",
    ".html",
}


def compression_of(file: str | Path) -> str | None:
    """gzip, zstd, xz or bzip2; None if the file is not compressed."""
    return COMPRESSIONS.get(Path(file).suffix.lower())


def suffix_of(file: str | Path) -> str:
    """The suffix that tells the format, before that of a compression."""
    path = Path(file)
    return (path.with_suffix("") if compression_of(path) else path).suffix.lower()


def format_of(file: str | Path) -> str:
    """text, json, csv, tsv or parquet; an unknown suffix is taken for plain text.

    Raises:
        UserError: the name says that it is something else.
    """
    suffix = suffix_of(file)
    if suffix in CONLL and suffix not in _TEXT_TOO:
        raise UserError(
            f"{file}: a {suffix} file holds a word and its tag a line, for tasks that label words; as texts, write its "
            "sentences as lines (.txt) or as JSON lines with `tokens`"
        )
    if suffix in _NOT_TEXT:
        raise UserError(f"{file}: a {suffix} file cannot be read; unpack or convert it to {', '.join(FORMATS)}")
    return FORMATS.get(suffix, "text")
