"""The command line: one verb a stage, and imports inside the verbs, so that `--help` is instant.

`verbs`: what each does. `options`: what each takes. `command`: the parser, and what becomes of errors. Start here.
"""

from mlm_pretrain.cli.command import main

__all__ = ["main"]
