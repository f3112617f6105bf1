#!/usr/bin/env bash
# The tests, in an environment of their own making. Arguments go to pytest: bash scripts/test.sh -k stream
set -euo pipefail
source "$(dirname "$0")/environment.sh" dev
.venv/bin/python -m pytest "$@"
