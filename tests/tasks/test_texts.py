"""The rows of files to predict: bad lines are told, and take no others along."""

from __future__ import annotations

import csv
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlm_pretrain.tasks.texts import read_records


def test_bad_lines_of_tables(tmp_path: Path) -> None:
    content = (
        b'text,n\nfine,1\n"two\nlines",2\n"not closed,3\ngood,4\none,two,three\n\n\xff\xfe,1\n"a"b,5\nlast,6\n"open'
    )
    (tmp_path / "in.csv").write_bytes(content)
    records = list(read_records(tmp_path / "in.csv"))
    good = [(record.line, record.last_line, record.row["text"]) for record in records if not record.problem]
    assert good == [(2, 2, "fine"), (3, 4, "two\nlines"), (6, 6, "good"), (11, 11, "last")]
    bad = [(record.line, record.raw) for record in records if record.problem]
    assert bad == [(5, '"not closed,3'), (7, "one,two,three"), (9, "\ufffd\ufffd,1"), (10, '"a"b,5'), (12, '"open')]
    assert all(
        record.problem.startswith(f"{tmp_path / 'in.csv'}:{record.line}: ") for record in records if record.problem
    )
    for record in records:  # where reading can begin again
        following = [other for other in records if other.line > record.last_line]
        assert list(read_records(tmp_path / "in.csv", skip=record.last_line)) == following


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.text(alphabet='ab",\n\r\té', max_size=6), min_size=2, max_size=2), max_size=8))
def test_any_table_is_read_as_it_was_written(tmp_path: Path, rows: list[list[str]]) -> None:
    with (tmp_path / "in.csv").open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, quoting=csv.QUOTE_ALL).writerows([["text", "other"], *rows])
    records = list(read_records(tmp_path / "in.csv"))
    assert [list(record.row.values()) for record in records] == rows
