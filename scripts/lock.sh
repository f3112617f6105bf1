#!/usr/bin/env bash
# Writes locks/*.txt anew: every package that an environment of ours holds, with its version and the digests of its
# files, for CPython 3.11 and newer on any platform. Run it after a change of pyproject.toml or constraints.txt; what
# was locked stays as it is where that still fits. To take the newest of everything: rm locks/*.txt first.
#   plain.txt  what the package needs      torch.txt  torch, and the CUDA libraries of its build on PyPI
#   dev.txt    what its tests need besides
#   build.txt  what builds the package, and those of the others that come as source
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check uv==0.13.9
mkdir -p locks
cat locks/*.txt > "$work/known.txt" 2>/dev/null || true

compile() { # the name of the list, then what it is made of
    local list=$1; shift
    cp "$work/known.txt" "$work/$list.txt"
    "$work/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        --no-annotate --constraint constraints.txt --output-file "$work/$list.txt" "$@" >/dev/null
}
compile dev --extra dev pyproject.toml
cat "$work/dev.txt" >> "$work/known.txt"
compile plain pyproject.toml
printf '%s\n' setuptools setuptools-scm wheel > "$work/build.in"
compile build "$work/build.in"

"$work/venv/bin/python" - "$work" <<'PYTHON'
import re, sys
from pathlib import Path

work = Path(sys.argv[1])

def entries(name):
    return re.findall(r"^\S.*(?:\n    .*)*", (work / f"{name}.txt").read_text(encoding="utf-8"), re.MULTILINE)

def write(name, found):
    header = "# By scripts/lock.sh, from pyproject.toml and constraints.txt.\n"
    Path(f"locks/{name}.txt").write_text(header + "".join(entry + "\n" for entry in found), encoding="utf-8")

cuda = re.compile(r"(torch|triton|cuda-.*|nvidia-.*)==")
plain, dev = entries("plain"), entries("dev")
write("torch", [entry for entry in plain if cuda.match(entry)])
write("plain", [entry for entry in plain if not cuda.match(entry)])
write("dev", [entry for entry in dev if entry not in plain])
write("build", entries("build"))
PYTHON
