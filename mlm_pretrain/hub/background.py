"""Sending checkpoints while the run goes on.

`Sender.saved` is handed to the training loop: it puts a checkpoint into the outbox (hard links) and returns. A thread
sends what lies there, one after the other, and waits longer after each failure; whatever the network, the Hub or the
login do, the run doesn't stop, nor wait. What is unsent at the end stays in the outbox, and a line says how to send it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from huggingface_hub import HfApi

from mlm_pretrain.config import PublishConfig
from mlm_pretrain.console.telemetry import say, warn
from mlm_pretrain.hub import checkpoints
from mlm_pretrain.hub.files import refuse_secrets
from mlm_pretrain.hub.transfer import full_name, reason, send
from mlm_pretrain.io.paths import inside
from mlm_pretrain.run import RunDirectory, step_of

FIRST_WAIT, LONGEST_WAIT = 4.0, 600.0
"""Seconds between two tries: doubled after each failure."""
LAST_SECONDS = 60.0
"""How long the end of a run waits for what is being sent; less where two tries fail."""

OnSave = Callable[[int, Path], None]


@contextlib.contextmanager
def sending(run: RunDirectory, publish: PublishConfig) -> Iterator[OnSave | None]:
    """What the loop is to call behind each save, where the config wants checkpoints sent; None if it doesn't.

    Raises:
        UserError: the run's config holds a secret.
    """
    if publish.push_every is None:
        yield None
        return
    sender = Sender(run, publish)
    sender.take_up()
    finished = False
    try:
        yield sender.saved
        finished = True
    finally:
        # A run that was told to stop has little time, and one that failed has something to tell.
        sender.close(LAST_SECONDS if finished else 0.0)


def send_left(run: RunDirectory, publish: PublishConfig) -> None:
    """Send what a process that was killed has left in the outbox."""
    if publish.push_every is not None and checkpoints.Outbox(run).entries():
        Sender(run, publish).close(LAST_SECONDS)


class Sender:
    """The outbox of a run, and a thread that empties it.

    The thread is started by the first save: loader workers are forked before, and hold none of its locks.

    Raises:
        UserError: the run's config holds a secret, or its checkpoints are elsewhere.
    """

    def __init__(self, run: RunDirectory, publish: PublishConfig) -> None:
        assert publish.push_every is not None
        refuse_secrets(run, [])
        inside(run.root, run.checkpoints)
        self._run, self._publish, self._every = run, publish, publish.push_every
        self._outbox = checkpoints.Outbox(run)
        self._name: str | None = None
        self._thread: threading.Thread | None = None
        self._there_is_more, self._closing, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._sent = 0
        self._failure: str | None = None
        """Why the last try failed; None after one that didn't."""
        self._told: set[str] = set()
        self._last_step = 0

    def take_up(self) -> None:
        """Go on behind the newest checkpoint; the process before may have been killed between saving and sending it."""
        if standing := checkpoints.standing_checkpoints(self._run):
            self._last_step = step_of(standing[-1])
            if self._last_step % self._every == 0:
                self._add(standing[-1])

    def saved(self, step: int, checkpoint: Path) -> None:
        """Send this checkpoint some time, if a multiple of `push_every` lies between it and the one before."""
        if step // self._every > self._last_step // self._every:
            self._add(checkpoint)
            self._start()
        self._last_step = step

    def close(self, seconds: float) -> None:
        """Wait for what is being sent for so long at most, and tell what is unsent."""
        if not seconds:
            self._stop.set()
        elif self._outbox.entries():
            self._start()
        self._closing.set()
        self._there_is_more.set()
        if self._thread:
            self._thread.join(timeout=seconds)
        self._stop.set()
        if unsent := self._outbox.entries():
            why = f" ({self._failure})" if self._failure else ""
            warn(
                f"publish: not sent yet: {', '.join(entry.name for entry in unsent)}{why}; they are kept in "
                f"{self._outbox.folder}, and `mlm-pretrain push {self._run.root}` sends them"
            )
        elif self._sent:
            say(f"publish: {self._sent} checkpoints were sent to {self._name}")

    def _add(self, checkpoint: Path) -> None:
        try:
            self._outbox.add(checkpoint)
        except Exception as error:  # nothing that happens here may end the run
            self._tell(f"{checkpoint.name} is not kept for sending: {reason(error)}")

    def _tell(self, line: str) -> None:
        """Each line once: what fails, fails the same way again and again."""
        if line not in self._told:
            self._told.add(line)
            warn(f"publish: {line}")

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="push", daemon=True)
            self._thread.start()
        self._there_is_more.set()

    # -- in the thread ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        api, wait, last_tries = HfApi(), FIRST_WAIT, 2
        while not self._stop.is_set() and last_tries:
            self._there_is_more.clear()
            self._failure = self._send_all(api)
            if self._closing.is_set():
                if not self._outbox.entries():
                    return
                last_tries -= 1
                self._stop.wait(FIRST_WAIT if last_tries else 0)
            elif self._failure:
                self._tell(f"{self._failure}; the run goes on, and tries again")
                self._closing.wait(wait)  # a new checkpoint is no reason to try sooner
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                wait = FIRST_WAIT
                self._there_is_more.wait()

    def _send_all(self, api: HfApi) -> str | None:
        """Send what lies in the outbox; why that failed, if it did."""
        try:
            with self._outbox.locked():
                self._outbox.clean()
                for entry in self._outbox.entries():
                    if self._stop.is_set():
                        return None
                    if checkpoints.whole([entry], self._run.root):
                        self._send(api, entry)
                    self._outbox.remove(entry)
        except Exception as error:  # whatever it is, the run is worth more
            return reason(error)
        return None

    def _send(self, api: HfApi, entry: Path) -> None:
        name = str(self._publish.hub_model_id)
        self._name = self._name or (name if "/" in name else full_name(api, name))
        publish = self._publish.model_copy(update={"hub_model_id": self._name})
        checkpoints.write_card(self._run, entry, publish)
        repository = checkpoints.checkpoint_repository(self._run, entry, publish)
        refuse_secrets(self._run, [repository])
        send(api, repository, publish.hub_private_repo)
        self._sent += 1
