"""Parquet files, with what their columns mean: the names behind integers, numbers and text of other types."""

from __future__ import annotations

import decimal
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlm_pretrain.io.files.compression import open_bytes
from mlm_pretrain.io.files.formats import compression_of
from mlm_pretrain.io.files.tables import distinct

BATCH = 1000

Convert = Callable[[Any], Any]

_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
_LIST = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view)


def open_parquet(file: str | Path) -> pq.ParquetFile:
    if compression_of(file):
        with open_bytes(file) as handle:
            return pq.ParquetFile(pa.BufferReader(handle.read()))
    # Without these two, all of a column is in memory at once, and row groups may be as large as the file.
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20)


def batches(
    parquet: pq.ParquetFile, start: int = 0, end: int | None = None, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows from `start` up to `end`; row groups without any of them are not read."""
    metadata = parquet.metadata
    end = metadata.num_rows if end is None else end
    # Where each row group starts, and the last one ends.
    sizes = (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
    starts = list(itertools.accumulate(sizes, initial=0))
    groups = [i for i, (first, after) in enumerate(itertools.pairwise(starts)) if first < end and after > start]
    row = starts[groups[0]] if groups else end
    for batch in parquet.iter_batches(batch_size=BATCH, row_groups=groups, columns=columns):
        if row >= end:
            break
        yield batch.slice(max(start - row, 0), end - max(row, start))
        row += len(batch)


def rows(parquet: pq.ParquetFile, start: int = 0) -> Iterator[dict[str, Any]]:
    """Rows as plain values: numbers for decimals, text for bytes that are text; columns as `distinct` names them."""
    converts = [_converter(field.type) for field in parquet.schema_arrow]
    names = distinct(parquet.schema_arrow.names)
    for batch in batches(parquet, start):
        columns = [
            column.to_pylist() if convert is None else [convert(value) for value in column.to_pylist()]
            for column, convert in zip(batch.columns, converts, strict=True)
        ]
        for values in zip(*columns, strict=True):
            yield dict(zip(names, values, strict=True))


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names behind integers (or lists of them) by column, as `datasets` leaves them in a file's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {column: names for column, feature in features.items() if (names := _names(feature))}
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}


def _names(feature: Any) -> list[str] | None:
    """Of a ClassLabel, or of a list of them: `{"feature": …}`, in older files `[…]`."""
    if isinstance(feature, list) and len(feature) == 1:
        return _names(feature[0])
    if feature.get("_type") == "ClassLabel":
        return list(feature["names"])
    return _names(feature["feature"]) if "feature" in feature else None


def _converter(kind: pa.DataType) -> Convert | None:
    """What makes a column's values plain; None if they are."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_decimal(kind):
        return _number
    if pa.types.is_float16(kind):
        return lambda value: None if value is None else float(value)
    if any(is_binary(kind) for is_binary in _BINARY):
        return as_text
    if any(is_list(kind) for is_list in _LIST) and (convert := _converter(kind.value_type)) is not None:
        return lambda values: None if values is None else [convert(value) for value in values]
    return None


def _number(value: decimal.Decimal | None) -> float | int | None:
    if value is None:
        return None
    return int(value) if value == value.to_integral_value() else float(value)


def as_text(value: bytes | None) -> str | bytes | None:
    """Bytes that are UTF-8, as older writers leave text, as a string."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value
