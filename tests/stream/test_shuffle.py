"""A lane finds back to any row of any kind of source."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlm_pretrain.config import SourceConfig
from mlm_pretrain.stream.dealing import Lane, Origin, RowReader
from mlm_pretrain.stream.shuffle import DocumentReader
from mlm_pretrain.text.mixture import open_source

ROWS = [{"text": f"document number {number}\nof several lines"} for number in range(90)]
KINDS = ("json", "gzip", "text", "csv", "parquet", "hub")


def source_of(kind: str, folder: Path) -> SourceConfig:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    table = pa.table({"text": [row["text"] for row in ROWS]})
    if kind == "json":
        (folder / "a.jsonl").write_text(lines, encoding="utf-8")
    elif kind == "gzip":
        (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    elif kind == "text":
        (folder / "a.txt").write_text("\n\n".join(row["text"] for row in ROWS), encoding="utf-8")
    elif kind == "csv":
        quoted = "".join('"' + row["text"] + '"\n' for row in ROWS)
        (folder / "a.csv").write_text("text\n" + quoted, encoding="utf-8")
    else:
        pq.write_table(table, folder / "a.parquet", row_group_size=20)
    return SourceConfig(source="hub" if kind == "hub" else "files", path=str(folder))


def rest(reader: RowReader) -> Iterator[Any]:
    """The rows to come of three epochs; None between them."""
    epochs = 0
    while epochs < 3:
        row = reader.next()
        epochs += row is None
        yield row


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lanes", [1, 3])
def test_rows_go_on_at_any_place(kind: str, lanes: int, tmp_path: Path) -> None:
    dataset = open_source(source_of(kind, tmp_path))
    epochs = []
    for number in range(lanes):
        origin = Origin(0, 0, Lane(number, lanes))
        whole = RowReader(dataset, origin)
        places, rows = [], []
        for row in itertools.chain([...], rest(whole)):
            rows.append(row)
            places.append(json.loads(json.dumps(whole.place())))
        epochs.append([list(group) for is_row, group in itertools.groupby(rows[1:], bool) if is_row])
        for start in range(0, len(rows) - 1, 7):
            again = RowReader(dataset, origin)
            again.go(places[start])
            expected = rows[start + 1 : start + 10]
            assert [again.next() for _ in expected] == expected
    for epoch in range(3):
        read = [json.dumps(row, sort_keys=True) for lane in epochs for row in lane[epoch]]
        assert len(read) == len(set(read)) == len(ROWS)


@pytest.mark.parametrize("kind", KINDS)
def test_documents_go_on_at_any_place(kind: str, tmp_path: Path) -> None:
    source = source_of(kind, tmp_path)

    def reader(stays_open: bool = True) -> DocumentReader:
        origin = Origin(0, 0, Lane(1, 2))
        return DocumentReader(open_source(source), source, origin, 400, 0.0, max_epochs=2, stays_open=stays_open)

    whole = reader()
    states, taken = [json.dumps(whole.state())], []
    while documents := whole.take(60):
        taken.append(documents)
        states.append(json.dumps(whole.state()))
    assert sum(map(len, taken)) == len(ROWS)
    closing = reader(stays_open=False)
    assert list(iter(lambda: closing.take(60), [])) == taken and json.dumps(closing.state()) == states[-1]
    for start in range(0, len(taken), 5):
        again = reader()
        again.restore(json.loads(states[start]))
        assert json.dumps(again.state()) == states[start]
        assert list(iter(lambda again=again: again.take(60), [])) == taken[start:]
