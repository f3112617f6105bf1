"""A file's digest is of all its bytes, and is read again only when the file has changed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlm_pretrain.config import SourceConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.cache import cache_folder
from mlm_pretrain.text.files import digests as module
from mlm_pretrain.text.sources import fingerprint_source


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of a kilobyte count as large, and their digests are kept here."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MLM_PRETRAIN_CACHE", str(folder))
    monkeypatch.setattr(module, "KEPT", 1000)
    module._known.clear()
    return folder


def write(path: Path, data: bytes, age: int = 100) -> str:
    """A file that was written some seconds ago."""
    path.write_bytes(data)
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))
    return str(path)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read from now on, in another process, as it were."""
    module._known.clear()
    read: list[str] = []
    digest = module._digest
    monkeypatch.setattr(module, "_digest", lambda state, update: read.append(state.file) or digest(state, update))
    return read


def test_a_byte_in_the_middle_of_a_large_file_changes_the_corpus(cache: Path, tmp_path: Path) -> None:
    data = bytearray(b"a sentence of some words\n" * 4000)
    file = write(tmp_path / "x.txt", data)
    source = SourceConfig(source="files", path=file)
    before = fingerprint_source(source)
    assert before["files"][0]["sha256"] == sha(data) and len(list(cache.glob("digests/*.json"))) == 1
    for place in (30_000, 50_003, 77_777):
        changed = bytearray(data)
        changed[place] ^= 1
        write(tmp_path / "x.txt", changed, age=50)
        assert fingerprint_source(source)["files"][0]["sha256"] == sha(changed)
    assert len(list(cache.glob("digests/*.json"))) == 1
    write(tmp_path / "x.txt", data, age=20)
    assert fingerprint_source(source) == before


def test_a_kept_digest_is_not_read_again(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [write(tmp_path / "large.txt", b"x" * 5000), write(tmp_path / "small.txt", b"y" * 10)]
    first = module.digests(files)
    read = read_again(monkeypatch)
    assert module.digests(files) == first and read == [files[1]]
    write(tmp_path / "large.txt", b"z" * 5000, age=100)
    assert module.digests(files) == [sha(b"z" * 5000), first[1]] and files[0] in read
    # What the folder holds may be anything.
    for content in ("", "{}", "[1]", '{"sha256": "0"}', "\xff"):
        for kept in cache.glob("digests/*.json"):
            kept.write_text(content, encoding="latin-1")
        module._known.clear()
        assert module.digests(files)[0] == sha(b"z" * 5000)


def test_a_file_that_was_just_written_is_not_kept(cache: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "new.txt", b"x" * 5000, age=0)
    assert module.digests([file]) == [sha(b"x" * 5000)]
    assert not list(cache.glob("digests/*.json"))


def test_a_cache_that_cannot_be_written_costs_a_reading(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLM_PRETRAIN_CACHE", str(tmp_path / "file" / "below"))
    file = write(tmp_path / "x.txt", b"x" * 5000)
    for _ in range(2):
        module._known.clear()
        assert module.digests([file]) == [sha(b"x" * 5000)]
    with pytest.raises(UserError, match=r"gone\.txt: no such file"):
        module.digests([str(tmp_path / "gone.txt")])


def cache_of(tmp_path: Path, **environment: str) -> Path:
    code = "from mlm_pretrain.io.cache import cache_folder as f; print(f())"
    variables = {key: value for key, value in os.environ.items() if key not in {"MLM_PRETRAIN_CACHE", "XDG_CACHE_HOME"}}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**variables, "TMPDIR": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(ended.stdout.strip())


def test_without_a_home_the_cache_is_among_the_temporary_files(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    assert cache_of(tmp_path, HOME=str(tmp_path / "home")) == tmp_path / "home" / ".cache" / "mlm_pretrain"
    homeless = cache_of(tmp_path, HOME="/proc/no-home")
    assert homeless == tmp_path / f"mlm_pretrain-{os.getuid()}" and homeless.stat().st_mode & 0o777 == 0o700
    # A folder that others can write into could hold anything.
    homeless.chmod(0o777)
    other = cache_of(tmp_path, HOME="/proc/no-home")
    assert other != homeless and other.parent == tmp_path


def test_the_variable_names_the_cache(cache: Path) -> None:
    assert cache_folder() == cache
