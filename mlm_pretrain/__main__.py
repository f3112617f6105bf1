"""`python -m mlm_pretrain`, and so `accelerate launch -m mlm_pretrain`."""

import sys

from mlm_pretrain.cli import main

sys.exit(main())
