#!/usr/bin/env bash
# Makes .venv beside this checkout and installs the package into it, with the versions of constraints.txt.
# Sourced by the other scripts; arguments: the extras to install (none by default).
#   PYTHON=python3.12 bash scripts/quickstart.sh    takes another interpreter
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="${1:-}"
if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        || { echo "error: Python 3.11 or newer is needed; name one with PYTHON=…" >&2; exit 2; }
    "${PYTHON:-python3}" -m venv .venv
fi
# What is installed is known by what was asked for: nothing is done again until that changes.
wanted=$(cat pyproject.toml constraints.txt; echo "$extras"; pwd)
if [ "$wanted" != "$(cat ".venv/installed-${extras:-plain}" 2>/dev/null)" ]; then
    echo "installing into .venv (a few minutes the first time) …" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt --editable ".${extras:+[$extras]}"
    echo "$wanted" > ".venv/installed-${extras:-plain}"
fi
