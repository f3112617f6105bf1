"""Pushing a run to the Hub: the encoder to one repository, each fine-tuned task to one of its own.

What may leave the machine is a list of names (`_MODEL_FILES`): weights, tokenizer, configs, cards and the run's
records, never optimizer states, checkpoints or text. The endpoint is huggingface_hub's own (`HF_ENDPOINT`, which it
reads when it is imported), as are the login, the retries and the transfer.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, HfApi, constants, get_session
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open

from mlm_pretrain.config import Config, PublishConfig
from mlm_pretrain.config_file import load_config
from mlm_pretrain.errors import UserError
from mlm_pretrain.publish.card import write_cards
from mlm_pretrain.publish.facts import public_records, task_folders
from mlm_pretrain.run import RunDirectory, read_json
from mlm_pretrain.telemetry import MetricsLog, say, warn

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
_MODEL_FILES = (
    "README.md",
    "config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    *_TOKENIZER_FILES,
)
_ACCESS_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{20,}")
_CONNECT_SECONDS, _ANSWER_SECONDS = 15.0, 180.0

Files = dict[str, Path | bytes]
"""What goes into a repository: the name there, and a file here or its content."""


@dataclass(frozen=True)
class Pushed:
    """One repository: what was sent (name → bytes) and the commit, which is `None` after a dry run."""

    repo_id: str
    files: dict[str, int]
    commit_url: str | None

    def __str__(self) -> str:
        files = "".join(f"\n  {name}  {size:,} bytes" for name, size in self.files.items())
        return f"{self.repo_id}: {self.commit_url or 'dry run, nothing was sent'}{files}"


def push(run: RunDirectory, config: Config, *, dry_run: bool = False, repo_id: str | None = None) -> list[Pushed]:
    """Send the encoder to `publish.hub_model_id`, and each fine-tuned task to `<hub_model_id>-<task>`.

    Repositories are made where they don't exist, private unless `publish.hub_private_repo` is off; each push is one
    commit. The cards are written anew first. The config is published as `training_config.yaml`; in it, in the
    records and in the model's config absolute paths are cut to their last component.

    Args:
        run: the run directory.
        config: its `publish` section says where to and how; what was trained is read from the run.
        dry_run: gather what would be sent, and contact nobody.
        repo_id: push there instead of to `publish.hub_model_id`.

    Raises:
        UserError: there is no model, no repository name or no login; a file holds what looks like an access token;
            the Hub refuses or can't be reached. What stands on disk is left as it is in every case.
    """
    name = repo_id or config.publish.hub_model_id
    if name is None:
        raise UserError("publish.hub_model_id: no repository is named; give publish.hub_model_id=<user>/<model>")
    names = [name, *(f"{name}-{folder.name}" for folder in task_folders(run))]
    for each in names:
        _check_name(each)
    _check_model(run)
    repeat = f"mlm-pretrain push {run.root}" + (f" publish.hub_model_id={repo_id}" if repo_id else "")
    api = HfApi()
    if not dry_run:
        with _told(name, run, repeat):
            name = _full_name(api, name)
    publish = config.publish.model_copy(update={"hub_model_id": name})
    repositories = _collect(run, publish)
    _refuse_tokens(run, repositories)
    for task in config.tasks:
        if f"{name}-{task.name}" not in repositories:
            warn(f"task '{task.name}' has no model in {run.tasks}; it is not pushed")
    done = []
    for repository, files in repositories.items():
        sizes = {path: len(data) if isinstance(data, bytes) else data.stat().st_size for path, data in files.items()}
        url = None
        if not dry_run:
            say(f"push to {repository}: {len(files)} files, {sum(sizes.values()) / 1e6:,.1f} MB")
            with _told(repository, run, repeat):
                url = _send(api, repository, files, private=publish.hub_private_repo)
        done.append(Pushed(repository, sizes, url))
    return done


# -- what is sent ----------------------------------------------------------------------------------------------


def _check_name(name: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"publish.hub_model_id: '{name}' can't name a repository: {error}") from None


def _check_model(run: RunDirectory) -> None:
    """Refuse to publish weights that are missing, or cut short by a crash or a full disk."""
    if not (run.model / "config.json").is_file() or not _weights(run.model):
        raise UserError(f"{run.model}: no trained model to push; run `mlm-pretrain pretrain {run.root}` first")
    for path in [weights for folder in (run.model, *task_folders(run)) for weights in _weights(folder)]:
        try:
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: damaged weights ({error}); rerun the stage that writes them") from None


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))


def _collect(run: RunDirectory, publish: PublishConfig) -> dict[str, Files]:
    """Write the cards, and gather each repository's files."""
    write_cards(run, publish)
    encoder = _model_files(run.model)
    for path in _allowed(run.tokenizer, _TOKENIZER_FILES):
        encoder.setdefault(path.name, path)
    encoder["training_config.yaml"] = _public_config(run)
    if run.results.exists():
        encoder["results.json"] = _json(public_records(run.read_results()), indent=2)
    if run.metrics.exists():
        records = MetricsLog(run.metrics).read()
        encoder["metrics.jsonl"] = b"".join(_json(public_records(record)) for record in records)
    if run.tokenizer_report.exists():
        encoder["tokenizer_report.json"] = run.tokenizer_report
    repositories = {str(publish.hub_model_id): encoder}
    for folder in task_folders(run):
        if _weights(folder):
            repositories[f"{publish.hub_model_id}-{folder.name}"] = _model_files(folder)
    return repositories


def _allowed(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    files = sorted(path for path in folder.glob("*") if path.is_file())
    return [path for path in files if any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)]


def _model_files(folder: Path) -> Files:
    """The publishable files of a transformers folder; configs that name a folder of this machine are rewritten."""
    files: Files = {path.name: path for path in _allowed(folder, _MODEL_FILES)}
    for name in ("config.json", "tokenizer_config.json"):
        if name not in files:
            continue
        data = read_json(folder / name)
        local = {key: value for key, value in data.items() if key.endswith(("name_or_path", "_file"))}
        if public_records(local) != local:
            files[name] = _json(data | public_records(local), indent=2)
    return files


def _public_config(run: RunDirectory) -> bytes:
    data = public_records(load_config(run.config).model_dump(mode="json"))
    note = "# The run's resolved configuration. Absolute paths are cut to their last component.\n"
    return (note + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)).encode()


def _json(data: object, indent: int | None = None) -> bytes:
    return (json.dumps(data, indent=indent, ensure_ascii=False) + "\n").encode()


def _refuse_tokens(run: RunDirectory, repositories: dict[str, Files]) -> None:
    texts: list[tuple[str, Path | bytes]] = [(str(run.config), run.config)]
    for repository, files in repositories.items():
        texts += [
            (str(data) if isinstance(data, Path) else f"{name} of {repository}", data)
            for name, data in files.items()
            if not name.endswith(".safetensors")
        ]
    for place, data in texts:
        if _ACCESS_TOKEN.search(data if isinstance(data, bytes) else data.read_bytes()):
            raise UserError(
                f"{place}: holds what looks like a Hub access token (hf_…); nothing was sent: "
                f"remove it there, revoke it on the Hub, and push again"
            )


# -- sending ---------------------------------------------------------------------------------------------------


def _full_name(api: HfApi, name: str) -> str:
    """The repository's name with its owner; asking who is logged in finds a bad login before anything is sent."""
    _limit_waiting()
    user = api.whoami()["name"]
    return name if "/" in name else f"{user}/{name}"


def _send(api: HfApi, repository: str, files: Files, private: bool) -> str:
    _limit_waiting()
    api.create_repo(repository, private=private, exist_ok=True)
    if private and not api.model_info(repository).private:
        raise UserError(
            f"{repository}: this repository exists and is public, while publish.hub_private_repo is true; "
            f"nothing was sent there: make it private on the Hub, or give publish.hub_private_repo=false"
        )
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in files.items()]
    return str(api.create_commit(repository, operations, commit_message="Upload with mlm_pretrain").commit_url)


def _limit_waiting() -> None:
    """huggingface_hub waits without end for an answer by default; its retries keep the client that is set here."""
    client = get_session()
    if client.timeout.read is None:
        client.timeout = type(client.timeout)(_ANSWER_SECONDS, connect=_CONNECT_SECONDS)


@contextmanager
def _told(repository: str, run: RunDirectory, repeat: str) -> Iterator[None]:
    """Word what can go wrong on the way to the Hub; server messages are kept, tokens are never in them."""
    try:
        yield
    except UserError:
        raise
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        kept = f"everything is kept in {run.root}; repeat with `{repeat}`"
        raise UserError(f"push to {repository}: {_reason(error)}; {kept}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, LocalTokenNotFoundError):
        return "you are not logged in: `hf auth login`, or set HF_TOKEN"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: unset it to push"
    if not isinstance(error, HfHubHTTPError):
        if isinstance(error, HTTPError):
            return f"no connection to {constants.ENDPOINT} ({type(error).__name__}: {error})"
        return f"{type(error).__name__}: {error}"
    status = error.response.status_code
    said = f" ({error.server_message})" if error.server_message else ""
    if status == 401:
        return f"the login was refused (401){said}: `hf auth login`, or set HF_TOKEN to a valid token"
    if status == 403:
        return f"this token may not write there (403){said}: use one with write access, or another name"
    return f"the Hub answered {status}{said}" + (": its fault, try later" if status >= 500 else "")
