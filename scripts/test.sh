#!/usr/bin/env bash
# The tests, in an environment of their own making, on all cores. Arguments go to pytest: bash scripts/test.sh -k stream
set -euo pipefail
source "$(dirname "$0")/environment.sh" dev
.venv/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal "$@"
