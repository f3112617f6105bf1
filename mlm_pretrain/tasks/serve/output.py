"""Where predictions go: to a file that is whole or not there, and that a killed run goes on with, or to a stream."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from mlm_pretrain.console.telemetry import reader_may_leave
from mlm_pretrain.errors import UserError
from mlm_pretrain.escaping import csv_cell, json_line
from mlm_pretrain.io.locks import lock_file
from mlm_pretrain.io.plain_json import dumps, finite
from mlm_pretrain.io.whole import fsync, read_json, write_json

TABLES = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".json")


@dataclass
class Progress:
    """How far a prediction has come."""

    lines: int = 0
    """Of the input, empty ones included."""
    texts: int = 0
    bad_lines: int = 0
    truncated: int = 0
    first_problem: str | None = None
    columns: list[str] | None = None
    """Of a table."""
    bytes: list[int] = field(default_factory=lambda: [0, 0])
    """Of the output, and of the bad lines."""
    complete: bool = False


class Output:
    """Predictions to a stream: formatted, written a chunk at a time."""

    def __init__(self, stream: IO[str] | None = None, delimiter: str | None = None) -> None:
        """
        Args:
            delimiter: of a table; by default lines of JSON.
        """
        self.progress = Progress()
        self._stream = stream
        self._delimiter = delimiter

    def write(self, records: Sequence[dict[str, Any]], bad: Sequence[dict[str, Any]]) -> None:
        """Write a chunk, whose counts `progress` has already."""
        assert self._stream is not None
        self._stream.write(self._formatted(records))
        self._stream.flush()

    def finish(self) -> None:
        """All is written."""

    def _formatted(self, records: Sequence[dict[str, Any]]) -> str:
        if self._delimiter is None:
            return "".join(json_line(finite(record), self._stream) + "\n" for record in records)
        buffer = io.StringIO()
        # Strings in quotes: line ends of any kind in a text stay in their field.
        writer = csv.writer(buffer, delimiter=self._delimiter, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        if self.progress.columns is None and records:
            self.progress.columns = list(dict.fromkeys(name for record in records for name in record))
            writer.writerow(map(csv_cell, self.progress.columns))
        for record in records:
            for name, value in record.items():
                if isinstance(value, dict | list):
                    raise UserError(f"{name} is no single value, which a table can't hold; give a .jsonl file")
            writer.writerow([csv_cell(record.get(name, "")) for name in self.progress.columns or ()])
        return buffer.getvalue()


class OutputFile(Output):
    """Predictions to a file, with the bad lines in another beside it.

    Both grow under hidden names. After each chunk, once it is on disk, a state file says how long they are and how many
    lines of the input they stand for; what a killed process wrote behind that is cut off. They get their names when
    all is done.
    """

    def __init__(self, output: Path, identity: str, delimiter: str | None = None) -> None:
        """
        Args:
            identity: what the output depends on; what was written for another one is not taken up.

        Raises:
            UserError: another process is writing it.
            OSError: it can't be written.
        """
        super().__init__(None, delimiter)
        self._finals = (output, output.with_name(f"{output.name}.bad.jsonl"))
        self._parts = tuple(output.with_name(f".{output.name}.part{ending}") for ending in ("", ".bad"))
        self._state = output.with_name(f".{output.name}.part.json")
        self._identity = identity
        output.parent.mkdir(parents=True, exist_ok=True)
        state = read_json(self._state)
        if state.get("identity") == identity:
            self.progress = Progress(**state["progress"])
        self._handles: list[IO[bytes]] = []
        self._let_go: Callable[[], None] = lambda: None
        if not self.progress.complete:
            self._open()

    def _open(self) -> None:
        with contextlib.ExitStack() as opened:
            handles: list[IO[bytes]] = [opened.enter_context(part.open("ab")) for part in self._parts]
            self._let_go = _lock(handles[0], self._parts[0], self._finals[0])
            opened.callback(self._let_go)
            sizes = [part.stat().st_size for part in self._parts]
            if any(size < known for size, known in zip(sizes, self.progress.bytes, strict=True)):
                self.progress = Progress()
            if not self.progress.lines:
                self._state.unlink(missing_ok=True)  # before there is anything that it doesn't tell of
            for handle, known in zip(handles, self.progress.bytes, strict=True):
                handle.truncate(known)
            opened.pop_all()
        self._handles = handles

    def write(self, records: Sequence[dict[str, Any]], bad: Sequence[dict[str, Any]]) -> None:
        bad_lines = "".join(dumps(line) + "\n" for line in bad)
        for number, text in enumerate((self._formatted(records), bad_lines)):
            content = text.encode("utf-8", "replace")
            handle = self._handles[number]
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
            self.progress.bytes[number] += len(content)
        self._note()

    def finish(self) -> None:
        if not self.progress.complete:
            self.progress.complete = True
            # From here on a killed process leaves nothing to do but the renaming.
            self._note()
        for part, final, size in zip(self._parts, self._finals, self.progress.bytes, strict=True):
            if final == self._finals[1] and size == 0:
                part.unlink(missing_ok=True)
                final.unlink(missing_ok=True)  # of an earlier prediction
            elif part.exists():
                part.replace(final)
        fsync(self._finals[0].parent)
        self._state.unlink(missing_ok=True)
        for leftover in self._state.parent.glob(f".{self._state.name}.*.tmp"):
            leftover.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the files; those of which no chunk was finished are removed."""
        for handle in self._handles:
            with contextlib.suppress(OSError):  # a full disk: what is in the buffer is lost, and is computed again
                handle.close()
        self._let_go()
        if not (self.progress.complete or self._state.exists()):
            for part in self._parts:
                part.unlink(missing_ok=True)

    def _note(self) -> None:
        write_json(self._state, {"identity": self._identity, "progress": asdict(self.progress)})


@contextlib.contextmanager
def open_output(output: Path | None, identity: str) -> Iterator[Output]:
    """Where predictions go.

    Args:
        output: `.jsonl`, `.csv` or `.tsv`; None for standard output. What is no ordinary file (a pipe, /dev/null) gets
            lines of JSON as standard output does.

    Raises:
        UserError: it can't be written, or ends in something else.
    """
    if output is None:
        with reader_may_leave():
            yield Output(sys.stdout)
        return
    try:
        if output.exists() and not output.is_file() and not output.is_dir():
            with output.open("w", encoding="utf-8") as stream, reader_may_leave():
                yield Output(stream)
            return
        if output.suffix.lower() not in (*TABLES, *LINES):
            raise UserError(f"{output}: predictions go to a {', '.join((*LINES, *TABLES))} file")
        if output.is_dir():
            raise UserError(f"{output}: a folder; give a file")
        if output.parent.exists() and not output.parent.is_dir():
            raise UserError(f"{output}: can't write: {output.parent} is no folder")
        file = OutputFile(output, identity, TABLES.get(output.suffix.lower()))
        try:
            yield file
        finally:
            file.close()
    except OSError as error:
        stands = "; the same command goes on with what was written" if _stands(output) else ""
        raise UserError(f"{output}: can't write: {error.strerror or error}{stands}") from None


def _stands(output: Path) -> bool:
    with contextlib.suppress(OSError):
        return output.with_name(f".{output.name}.part.json").exists()
    return False


def _lock(handle: IO[bytes], path: Path, output: Path) -> Callable[[], None]:
    """Lock a part of the output; what lets go of it."""
    busy = f"{output}: another process is writing it; wait for it, or name another file"
    let_go = lock_file(handle, path, busy)
    # It may have been finished and renamed between opening and locking.
    if not path.exists() or not os.path.samestat(os.fstat(handle.fileno()), path.stat()):
        let_go()
        raise UserError(busy)
    return let_go
