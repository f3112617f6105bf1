"""The embedded corpus: what is read, what is left out, and that it is read once."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mlm_pretrain.config import SourceConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.text import docstrings, installed_docs
from mlm_pretrain.text.sources import SOURCES

LONG = "A documentation string that is long enough to be kept."


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MLM_PRETRAIN_CACHE", str(folder))
    return folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site-packages folder of our own as the only one."""
    folder = tmp_path / "site-packages"
    files = {
        "alpha/__init__.py": f'"""{LONG}"""\n',
        "alpha/core.py": f'class A:\n    """{LONG} A"""\n    def f(self):\n        """{LONG} f"""\n',
        "alpha/copy.py": f'"""{LONG}"""\ndef short():\n    """Too short."""\n',
        "alpha/tests/test_core.py": f'"""{LONG} tests"""\n',
        "alpha/_vendor/beta.py": f'"""{LONG} vendored"""\n',
        "alpha/broken.py": f'"""{LONG} broken"""\ndef (:\n',
        "alpha/surrogate.py": f'"""{LONG} \\ud800"""\n',
        "beta.py": f'"""{LONG} beta"""\n',
        "mlm_pretrain/__init__.py": f'"""{LONG} own"""\n',
        "alpha-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: alpha\nVersion: 1.0\n",
        "mlm_pretrain-0.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: mlm_pretrain\nVersion: 0.1\n",
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.setattr(installed_docs, "_site_folders", lambda: [folder])
    return folder


def test_the_strings_are_those_that_ast_finds() -> None:
    for module in (ast, inspect, textwrap):
        path = inspect.getsourcefile(module)
        assert path is not None
        tree = ast.parse(Path(path).read_bytes())
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        expected = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
        found = docstrings.read_docstrings(path)
        assert sorted(text for _, text in found) == sorted(text for text in expected if text is not None)


def test_names_and_nested_definitions(tmp_path: Path) -> None:
    source = '''
        """Module."""
        if True:
            class A:
                """Class."""
                try:
                    async def f(self):
                        """Method."""
                        def inner():
                            r"""Inner \\d."""
                except ValueError:
                    def g(self): "single quotes"
        else:
            def h():
                x = """not documentation"""
        '''
    path = tmp_path / "m.py"
    path.write_text(textwrap.dedent(source))
    assert docstrings.read_docstrings(str(path)) == [
        ("", "Module."),
        ("A", "Class."),
        ("A.f", "Method."),
        ("A.f.inner", "Inner \\d."),
        ("A.g", "single quotes"),
    ]
    assert docstrings.read_docstrings(str(tmp_path / "missing.py")) == []


def test_what_is_read_and_what_is_left_out(site: Path) -> None:
    table = pq.read_table(installed_docs.extract(["beta", "alpha"]))
    assert table.to_pylist() == [
        {"text": LONG, "package": "alpha", "qualname": "alpha"},
        {"text": f"{LONG} A", "package": "alpha", "qualname": "alpha.core.A"},
        {"text": f"{LONG} f", "package": "alpha", "qualname": "alpha.core.A.f"},
        {"text": f"{LONG} beta", "package": "beta", "qualname": "beta"},
    ]


def test_it_is_read_once_until_something_else_is_installed(site: Path, cache: Path) -> None:
    first = installed_docs.extract(["alpha"])
    stamp = first.stat().st_mtime_ns
    assert installed_docs.extract(["alpha"]) == first and first.stat().st_mtime_ns == stamp
    assert first.parent == cache and not list(cache.glob("*.tmp"))
    assert installed_docs.extract(["beta"]) != first
    own = site / "mlm_pretrain-0.1.dist-info" / "METADATA"
    own.write_text(own.read_text().replace("0.1", "0.2"))
    assert installed_docs.extract(["alpha"]) == first
    other = site / "alpha-1.0.dist-info" / "METADATA"
    other.write_text(other.read_text().replace("1.0", "1.1"))
    assert installed_docs.extract(["alpha"]) != first


def test_several_processes_read_the_same_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(ast.__file__).parent
    paths = [str(path) for path in sorted(folder.glob("*.py"))[:60]]
    alone = installed_docs._read(paths)
    monkeypatch.setattr(installed_docs, "_FEW_FILES", 0)
    assert installed_docs._read(paths) == alone
    # Where a process can't be had, or dies, this one reads the files.
    monkeypatch.setattr(installed_docs.sys, "executable", "/nowhere/python")
    assert installed_docs._read(paths) == alone
    monkeypatch.setattr(installed_docs.sys, "executable", "/bin/false")
    assert installed_docs._read(paths) == alone


def test_a_script_without_a_main_guard_can_extract(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from mlm_pretrain.text import installed_docs\n"
        "installed_docs._FEW_FILES = 0\n"
        "print(installed_docs.extract(['yaml']).stat().st_size > 0)\n"
    )
    command = [sys.executable, str(script)]
    root = Path(installed_docs.__file__).parents[2]
    result = subprocess.run(command, cwd=root, env=_environment(root), capture_output=True, text=True, timeout=60)
    assert result.stdout == "True\n", result.stderr


def _environment(root: Path) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(root)}


def test_the_source_streams_it_and_resumes(site: Path) -> None:
    config = SourceConfig(source="installed_docs", packages=["alpha", "beta"])
    whole = list(SOURCES["installed_docs"](config))
    assert [row["text"] for row in whole] == [LONG, f"{LONG} A", f"{LONG} f", f"{LONG} beta"]
    assert {(row["source"], row["dropped"]) for row in whole} == {("installed_docs", None)}
    first = SOURCES["installed_docs"](config)
    rows = iter(first)
    head = [next(rows), next(rows)]
    again = SOURCES["installed_docs"](config)
    again.load_state_dict(first.state_dict())
    assert head + list(again) == whole


def test_errors(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="'alfa' is not installed; did you mean 'alpha'"):
        installed_docs.extract(["alfa"])
    (site / "beta.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="beta"):
        installed_docs.extract(["beta"])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLM_PRETRAIN_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="MLM_PRETRAIN_CACHE"):
        installed_docs.extract(["alpha"])


def test_what_a_killed_process_left_is_removed(site: Path, cache: Path) -> None:
    file = installed_docs.extract(["alpha"])
    file.unlink()
    left = cache / f".{file.name}.123456.tmp"
    left.write_bytes(b"half")
    assert installed_docs.extract(["alpha"]) == file
    assert not list(cache.glob(".*.tmp"))
