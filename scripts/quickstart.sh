#!/usr/bin/env bash
# From nothing to a pretrained and fine-tuned encoder, on the documentation strings of the installed packages.
# Arguments are handed on: bash scripts/quickstart.sh run.name=second run.seed=1
set -euo pipefail
source "$(dirname "$0")/environment.sh" ""
.venv/bin/mlm-pretrain run configs/quickstart.yaml "$@"
