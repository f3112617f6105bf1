"""What a forked process has to settle before it reads and tokenises text."""

from __future__ import annotations

import os
import signal

import fsspec.asyn


def settle() -> None:
    """Make a process that was forked from one with tokenizers and file systems in use fit for work."""
    # The tokenizer's thread pool came without its threads, and would wait for them forever.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    fsspec.asyn.reset_lock()  # for the same reason, where text comes over the network
    # What ends a run is sent to the whole process group. The parent hears it, and says when it needs no more.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
