"""The house: imports go down the floors, or leftwards within one, and no two files import each other."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mlm_pretrain
from mlm_pretrain.cli import main

PACKAGE = Path(mlm_pretrain.__file__).parent
# Each floor from left to right; a module may import what stands to its left, and everything below.
FLOORS = [
    [
        "credentials",
        "escaping",
        "errors",
        "registry",
        "io",
        "config",
        "console",
        "run",
        "config_file",
        "records",
        "plots",
    ],
    ["models", "text"],
    ["objectives", "hardware", "runtime"],
    ["stream"],
    [
        *("training", "tasks.labels", "tasks.scores", "tasks.adapter", "tasks.kinds", "tasks.data", "tasks.inference"),
        *("tasks.export", "tasks.fit", "tasks.serve"),
    ],
    ["plan", "evaluation"],
    ["cards", "report", "hub", "demo"],
    ["stages", "summary", "cli", "__main__"],
]
ORDER = [name for floor in FLOORS for name in floor]
FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
"""By the names of the modules."""
# A door only hands on, or tells of, what stands elsewhere.
DOOR = "mlm_pretrain"


def _imports(path: Path) -> Iterator[str]:
    """The modules of this package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == DOOR:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in FILES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)


def _room(module: str) -> str:
    """`tasks` is a house of its own, with rooms from left to right."""
    parts = module.split(".")
    return ".".join(parts[1:3]) if parts[1] == "tasks" else parts[1]


DOORS = {DOOR, f"{DOOR}.tasks"}
ARROWS = {name: sorted(set(_imports(path)) - DOORS) for name, path in FILES.items() if name not in DOORS}


def test_no_import_climbs() -> None:
    assert len(ARROWS) > 200
    climbing = [
        f"{name} imports {other}"
        for name, others in ARROWS.items()
        for other in others
        if ORDER.index(_room(other)) > ORDER.index(_room(name))
    ]
    assert climbing == []


def test_no_files_import_each_other() -> None:
    list(TopologicalSorter(ARROWS).static_order())  # a circle is an error that names its files


def test_files_and_functions_are_small() -> None:
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in FILES.items()}
    assert {name: count for name, count in lines.items() if count > 300} == {}
    long = {
        f"{name}.{node.name}": length
        for name, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and (length := _lines_of_code(node)) > 60
    }
    assert long == {}


def _lines_of_code(function: ast.FunctionDef) -> int:
    """Without the docstring, which may take what it needs."""
    first, *_ = function.body
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def test_a_room_has_a_dozen_files_at_most() -> None:
    folders = {path.parent for path in FILES.values()} - {PACKAGE}
    crowded = {
        str(folder.relative_to(PACKAGE)): count
        for folder in folders
        if (count := sum(path.parent == folder and path.stem != "__init__" for path in FILES.values())) > 12
    }
    assert crowded == {}


def test_using_a_model_imports_no_training_of_one() -> None:
    code = "import sys; from mlm_pretrain.tasks.serve import embed, evaluate, predict;"
    code += "sys.exit(any(name in sys.modules for name in ('mlm_pretrain.tasks.fit', 'mlm_pretrain.training.loop')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_lowest_floor_needs_no_torch() -> None:
    code = "import sys, mlm_pretrain.config_file, mlm_pretrain.run, mlm_pretrain.console.telemetry, mlm_pretrain.cli;"
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_is_instant() -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "mlm_pretrain", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert "examples:" in done.stdout
    assert time.monotonic() - started < 5  # 0.1 s on an idle machine; importing torch alone would take seconds


def test_the_command_knows_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"mlm-pretrain {mlm_pretrain.__version__}\n"


def test_what_is_imported_is_a_requirement() -> None:
    """A package that only the tools of the tests bring is missing where users install."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [requirements for name, requirements in project["optional-dependencies"].items() if name != "dev"]
    named = [Requirement(each).name for each in (*project["dependencies"], *(each for many in extras for each in many))]
    required = {canonicalize_name(name) for name in named}
    of_whom = importlib.metadata.packages_distributions()
    lacking = {
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in PACKAGE.rglob("*.py")
        for name in _packages(path)
        if name not in sys.stdlib_module_names | {"mlm_pretrain"}
        and name in of_whom
        and required.isdisjoint(map(canonicalize_name, of_whom[name]))
    }
    assert lacking == set()


def _packages(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    whole = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return whole | {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
