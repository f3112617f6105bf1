"""What the tests here share: a finished run in miniature, and a Hub to send it to."""

from tests.miniature import copy_run, finished_run, hub  # noqa: F401  (fixtures)
