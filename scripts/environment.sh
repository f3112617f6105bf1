#!/usr/bin/env bash
# Makes .venv beside this checkout and installs the package into it, with the packages of locks/: exactly these
# versions, and only files with these digests.
# Sourced by the other scripts; argument: the extra to install, `dev` or none.
#   PYTHON=python3.12 bash scripts/quickstart.sh    takes another interpreter
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="${1:-}"
if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        || { echo "error: Python 3.11 or newer is needed; name one with PYTHON=…" >&2; exit 2; }
    "${PYTHON:-python3}" -m venv .venv
fi

install() { .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check "$@"; }

# The build of torch that pip's settings on this machine lead to: `2.13.0`, or one of its own, as `2.13.0+cpu`.
torch_build() {
    install --dry-run --ignore-installed --no-deps --constraint constraints.txt --report - torch \
        | .venv/bin/python -c 'import json, sys; print(json.load(sys.stdin)["install"][0]["metadata"]["version"])'
}

# What is installed is known by what was asked for: nothing is done again until that changes.
wanted=$(cat pyproject.toml constraints.txt locks/*.txt; echo "$extras"; pwd)
if [ "$wanted" != "$(cat ".venv/installed-${extras:-plain}" 2>/dev/null)" ]; then
    echo "installing into .venv (a few minutes the first time) …" >&2
    build=$(torch_build)
    lists=(--requirement locks/plain.txt ${extras:+--requirement "locks/$extras.txt"})
    if [[ $build == *+* ]]; then
        # No list can have the digest of a build that isn't PyPI's; whoever set pip up here vouches for it.
        echo "torch: this machine's own build, $build" >&2
        install --no-deps "torch==$build"
    else
        lists+=(--requirement locks/torch.txt)
    fi
    # No dependencies: the lists are whole, which `pip check` confirms. No isolation: what builds a package from source
    # would be fetched without digests.
    install --no-deps --require-hashes --requirement locks/build.txt
    install --no-deps --require-hashes --no-build-isolation "${lists[@]}"
    install --no-deps --no-build-isolation --editable .
    .venv/bin/python -m pip check --disable-pip-version-check >&2
    echo "$wanted" > ".venv/installed-${extras:-plain}"
fi
