"""Pushing a run to the Hub: the encoder to one repository, each fine-tuned task to one of its own.

What may leave the machine stands in `files.py`, the way there in `transfer.py`. Checkpoints go to branches of the
encoder's repository, through the run's `outbox/` (`checkpoints.py`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from mlm_pretrain.config import Config, PublishConfig
from mlm_pretrain.console.telemetry import say, warn
from mlm_pretrain.errors import UserError
from mlm_pretrain.hub.checkpoints import Outbox, checkpoint_repository, standing_checkpoints, whole, write_card
from mlm_pretrain.hub.files import Repository, check_models, has_models, model_repositories, refuse_secrets
from mlm_pretrain.hub.transfer import EXPECTED, full_name, reason, send, set_tag
from mlm_pretrain.records.facts import refuse_links_out, task_folders
from mlm_pretrain.run import RunDirectory

Further = Callable[[RunDirectory, PublishConfig], Repository]
"""What else to send: makes a repository of a run; `hub_model_id` of the section has its owner in it."""
_TAG = re.compile(r"(?!main$|step-\d+$)[A-Za-z0-9](?:[\w+-]|\.(?!\.|lock$|$))*")


@dataclass(frozen=True)
class Pushed:
    """One revision of a repository: what was sent (name → bytes) and the commit, which is `None` after a dry run.

    `revision` is a checkpoint's branch, `None` for `main`; `tag` the release's, where one was given.
    """

    repo_id: str
    files: dict[str, int]
    commit_url: str | None
    revision: str | None = None
    tag: str | None = None

    def __str__(self) -> str:
        place = (
            self.repo_id + (f"@{self.revision}" if self.revision else "") + (f", tag {self.tag}" if self.tag else "")
        )
        files = "".join(f"\n  {name}  {size:,} bytes" for name, size in self.files.items())
        return f"{place}: {self.commit_url or 'dry run, nothing was sent'}{files}"


def push(
    run: RunDirectory,
    config: Config,
    *,
    dry_run: bool = False,
    repo_id: str | None = None,
    checkpoints: bool = False,
    tag: str | None = None,
    further: Sequence[Further] = (),
) -> list[Pushed]:
    """Send the encoder to `publish.hub_model_id`, and each fine-tuned task to `<hub_model_id>-<task>`.

    Repositories are made where they don't exist, private unless `publish.hub_private_repo` is off; each push is one
    commit. The cards are written anew first. The config is published as `training_config.yaml`; in it, in the
    records and in the model's config absolute paths are cut to their last component. Checkpoints that wait in the
    outbox (see `background.py`) are sent too.

    Args:
        run: the run directory.
        config: its `publish` section says where to and how; what was trained is read from the run.
        dry_run: gather what would be sent, and contact nobody.
        repo_id: push there instead of to `publish.hub_model_id`.
        checkpoints: send each checkpoint that stands too, to the branch `step-<8 digits>` of the encoder's repository.
        tag: the name of a release, a git tag on what is sent to the encoder's and the tasks' repositories.
        further: other repositories, sent behind the models.

    Raises:
        UserError: there is nothing to push, no repository name or no login; a file holds what looks like an access
            token; a symlink leads out of the run; the Hub refuses or can't be reached. What is on disk is left as it
            is in every case.
    """
    refuse_links_out(run)
    name = _checked_name(run, repo_id or config.publish.hub_model_id)
    if tag is not None and not _TAG.fullmatch(tag):
        raise UserError(f"--tag: '{tag}' can't name a release; give something like v1.0")
    outbox = Outbox(run)
    standing = standing_checkpoints(run) if checkpoints else []
    # What is in the outbox already is taken from there.
    folders = whole({folder.name: folder for folder in (*standing, *outbox.entries())}.values(), run.root)
    _check_there_is_something(run, folders)
    api = HfApi()
    options = (f" publish.hub_model_id={repo_id}" if repo_id else "") + (" --checkpoints" if checkpoints else "")
    options += (f" --tag {tag}" if tag else "") + (" --space" if further else "")
    pushing = _Pushing(api, run, config.publish.hub_private_repo, options)
    if not dry_run:
        with pushing.told(name):
            name = full_name(api, name)
    publish = config.publish.model_copy(update={"hub_model_id": name})
    models = model_repositories(run, publish) if has_models(run) else []
    others = [make(run, publish) for make in further]
    branches = [checkpoint_repository(run, folder, publish) for folder in folders]
    refuse_secrets(run, [*models, *others, *branches])
    _tell_of_missing_tasks(run, config, name, models)
    if dry_run:
        planned = [(repository, tag) for repository in models] + [(each, None) for each in (*others, *branches)]
        return [Pushed(each.repo_id, each.sizes, None, each.revision, release) for each, release in planned]
    done = [pushing.send(repository, tag) for repository in models]
    done += [pushing.send(repository) for repository in others]
    return done + _send_checkpoints(pushing, outbox, folders, publish)


class _Pushing:
    """One repository after the other; how to word what goes wrong."""

    def __init__(self, api: HfApi, run: RunDirectory, private: bool, options: str) -> None:
        self._api, self.run, self._private = api, run, private
        self._repeat = f"mlm-pretrain push {run.root}{options}"

    def send(self, repository: Repository, tag: str | None = None) -> Pushed:
        sizes = repository.sizes
        say(f"push to {repository}: {len(sizes)} files, {sum(sizes.values()) / 1e6:,.1f} MB")
        with self.told(str(repository)):
            commit = send(self._api, repository, self._private)
            if tag:
                set_tag(self._api, repository.repo_id, tag, commit.oid)
        return Pushed(repository.repo_id, sizes, str(commit.commit_url), repository.revision, tag)

    @contextlib.contextmanager
    def told(self, place: str) -> Iterator[None]:
        """Word what can go wrong on the way to the Hub."""
        try:
            yield
        except UserError:
            raise
        except EXPECTED as error:
            kept = f"everything is kept in {self.run.root}; repeat with `{self._repeat}`"
            raise UserError(f"push to {place}: {reason(error)}; {kept}") from error


def _send_checkpoints(pushing: _Pushing, outbox: Outbox, folders: list[Path], publish: PublishConfig) -> list[Pushed]:
    """Send these, each from the outbox, where those that stand are put first."""
    done: list[Pushed] = []
    if not folders:
        return done
    with _claimed(outbox) as claimed:
        if claimed:
            outbox.clean()
            for folder in folders:
                if folder.parent != outbox.folder:
                    outbox.add(folder)
            for entry in [entry for entry in outbox.entries() if entry.name in {folder.name for folder in folders}]:
                write_card(pushing.run, entry, publish)
                done.append(pushing.send(checkpoint_repository(pushing.run, entry, publish)))
                outbox.remove(entry)
    return done


@contextlib.contextmanager
def _claimed(outbox: Outbox) -> Iterator[bool]:
    """Hold the outbox; False where the run's own process is sending from it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(outbox.locked())
        except UserError as error:
            warn(str(error))
            yield False
        else:
            yield True


def _checked_name(run: RunDirectory, name: str | None) -> str:
    if name is None:
        raise UserError("publish.hub_model_id: no repository is named; give publish.hub_model_id=<user>/<model>")
    for each in (name, *(f"{name}-{folder.name}" for folder in task_folders(run))):
        try:
            validate_repo_id(each)
        except HFValidationError as error:
            raise UserError(f"publish.hub_model_id: '{each}' can't name a repository: {error}") from None
    return name


def _check_there_is_something(run: RunDirectory, checkpoints: list[Path]) -> None:
    if has_models(run):
        check_models(run)
    elif checkpoints:
        warn(f"{run.model}: no trained model yet; only checkpoints are sent")
    else:
        raise UserError(f"{run.model}: no trained model to push; run `mlm-pretrain pretrain {run.root}` first")


def _tell_of_missing_tasks(run: RunDirectory, config: Config, name: str, found: Sequence[Repository]) -> None:
    for task in config.tasks:
        if found and not any(each.repo_id == f"{name}-{task.name}" for each in found):
            warn(f"task '{task.name}' has no model in {run.tasks}; it is not pushed")
