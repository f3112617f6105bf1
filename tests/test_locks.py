"""What an environment is made of: everything by version and digest, and no older than what people read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
ENTRY = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; (?P<marker>[^\\]+))? \\\n(?P<hashes>(?:    --hash=\S+.*\n)+)"
)


def entries(name: str) -> list[tuple[str, str, str | None]]:
    """Name, version and marker of every entry of a list; fails on a line that isn't one, with a digest at least."""
    text = (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8")
    header, *blocks = re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]
    assert header.startswith("# ")
    found = []
    for block in blocks:
        match = ENTRY.fullmatch(block)
        assert match, block
        assert all(
            re.fullmatch(r"--hash=sha256:[0-9a-f]{64}( \\)?", line.strip()) for line in match["hashes"].splitlines()
        )
        found.append((canonicalize_name(match["name"]), match["version"], match["marker"]))
    return found


def on_linux(*lists: str) -> dict[str, str]:
    """What is installed from these lists on Linux with Python 3.11."""
    place = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_python_implementation": "CPython"}
    place |= {"python_version": "3.11", "python_full_version": "3.11.7"}
    chosen: dict[str, str] = {}
    for name, version, marker in (entry for each in lists for entry in entries(each)):
        if marker is None or Marker(marker).evaluate(place):
            assert chosen.setdefault(name, version) == version, name
    return chosen


def test_the_lists_agree_with_what_people_read() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line
    )
    pinned = {canonicalize_name(name): version for name, version in pinned.items()}
    for lists, requirements in (
        (("plain", "torch"), project["dependencies"]),
        (("plain", "torch", "dev"), project["dependencies"] + project["optional-dependencies"]["dev"]),
    ):
        locked = on_linux(*lists)
        for requirement in map(Requirement, requirements):
            name = canonicalize_name(requirement.name)
            assert requirement.specifier.contains(locked[name]), f"{requirement}: run scripts/lock.sh"
            assert pinned[name] == locked[name], f"{name}: pin it in constraints.txt and run scripts/lock.sh"
    assert {name: locked[name] for name in pinned} == pinned
    assert {"setuptools", "wheel"} <= on_linux("build", "plain", "torch", "dev").keys()  # which build the package


def test_the_cuda_libraries_are_apart() -> None:
    assert all(re.match(r"(torch|triton|cuda-|nvidia-)", name) for name, *_ in entries("torch"))
    assert not [name for each in ("plain", "dev") for name, *_ in entries(each) if name.startswith(("nvidia", "cuda"))]


def test_no_place_is_named() -> None:
    for file in (*(ROOT / "locks").iterdir(), ROOT / "scripts" / "lock.sh", ROOT / "scripts" / "environment.sh"):
        text = file.read_text(encoding="utf-8")
        assert "://" not in text and "index-url" not in text and "find-links" not in text
