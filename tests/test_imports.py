"""The floors of the design: imports go down, or leftwards within a floor."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mlm_pretrain

PACKAGE = Path(mlm_pretrain.__file__).parent
# Each floor from left to right; a module may import what stands to its left, and everything below.
FLOORS = [
    [
        *("credentials", "escaping", "errors", "registry", "io", "config", "spent", "run", "config_file"),
        *("telemetry", "outlook", "bars"),
    ],
    ["models", "text", "objectives"],
    ["stream", "training", "tasks"],
    ["plan", "evaluation", "publish", "demo"],
    ["inputs", "stages", "summary", "options", "cli", "__main__"],
]
ORDER = [name for floor in FLOORS for name in floor]
# The package's own door only hands on what stands elsewhere.
DOOR = "__init__"


def _room(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("mlm_pretrain.")}
    return rooms - {"__version__"}


def test_no_import_climbs() -> None:
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if path.stem != DOOR or path.parent != PACKAGE]
    assert len(files) > 30
    climbing = [
        f"{path.relative_to(PACKAGE)} imports {room}"
        for path in files
        for room in _imports(path)
        if ORDER.index(room) > ORDER.index(_room(path))
    ]
    assert climbing == []


def test_the_lowest_floor_needs_no_torch() -> None:
    code = "import sys, mlm_pretrain.config_file, mlm_pretrain.run, mlm_pretrain.telemetry, mlm_pretrain.cli;"
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_is_instant() -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "mlm_pretrain", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert "examples:" in done.stdout
    assert time.monotonic() - started < 5  # 0.1 s on an idle machine; importing torch alone would take seconds


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
