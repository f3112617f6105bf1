"""What may leave the machine: files by a list of names, and what is refused all the same.

Weights, tokenizer, configs, cards with their pictures and the run's records may; optimizer states and text may not.
Of every text file it is asked whether it holds a credential.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_token
from safetensors import SafetensorError

from mlm_pretrain.cards.card import write_cards
from mlm_pretrain.config import PublishConfig
from mlm_pretrain.config.public import public_config, public_record, public_results, without_places
from mlm_pretrain.config.secrets import REMEDY, find_secrets
from mlm_pretrain.config.yaml_text import write_yaml
from mlm_pretrain.config_file import load_config
from mlm_pretrain.console.telemetry import MetricsLog
from mlm_pretrain.credentials import find_credential, names_secret, without_credentials
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.digests import check_folder
from mlm_pretrain.io.paths import files_inside, inside
from mlm_pretrain.io.plain_json import dumps
from mlm_pretrain.io.whole import read_json
from mlm_pretrain.records.facts import task_folders
from mlm_pretrain.run import RunDirectory

TOKENIZER_FILES = (
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
MODEL_FILES = (
    "README.md",
    "config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    *TOKENIZER_FILES,
)
_PICTURE = re.compile(r"!\[[^\]]*\]\((?:\./)?([\w-][\w./-]*\.(?:png|svg|jpg))\)")

Files = dict[str, Path | bytes]
"""What goes into a repository: the name there, and a file here or its content."""


@dataclass(frozen=True)
class Repository:
    """What one repository is to hold: its files, on `main` or on the branch `revision`.

    `repo_type` and `space_sdk` are those of `huggingface_hub.create_repo`.
    """

    repo_id: str
    files: Files
    revision: str | None = None
    repo_type: str = "model"
    space_sdk: str | None = None

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision}" if self.revision else self.repo_id

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by name."""
        return {
            name: len(data) if isinstance(data, bytes) else data.stat().st_size for name, data in self.files.items()
        }


def has_models(run: RunDirectory) -> bool:
    """Whether the run's encoder stands; of a run that has none of its own, whether a task's model does."""
    return _is_model(run.model) or (not run.model.is_dir() and any(map(_is_model, task_folders(run))))


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and bool(_weights(folder))


def check_models(run: RunDirectory) -> None:
    """
    Raises:
        UserError: a file isn't what was written, or weights are cut short or not finite.
    """
    from mlm_pretrain.runtime.bad_loss import first_not_finite_in  # imports torch

    again = "rerun the stage that writes it"
    check_folder(run.tokenizer, again)
    for folder in (run.model, *task_folders(run)):
        check_folder(folder, again)
        try:
            broken = first_not_finite_in(folder)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{folder}: damaged weights ({error}); {again}") from None
        if broken:
            raise UserError(f"{folder}: the weights {broken} are not finite, and are not sent; {again}")


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))


def model_repositories(run: RunDirectory, publish: PublishConfig) -> list[Repository]:
    """Write the cards, and gather the files of the encoder's repository and of each task's.

    Raises:
        UserError: as `write_cards`; a symlink leads out of the run.
    """
    write_cards(run, publish)
    repositories = [Repository(str(publish.hub_model_id), _encoder_files(run))] if _is_model(run.model) else []
    for folder in task_folders(run):
        if _weights(folder):
            repositories.append(Repository(f"{publish.hub_model_id}-{folder.name}", model_files(folder, run.root)))
    return repositories


def _encoder_files(run: RunDirectory) -> Files:
    encoder = model_files(run.model, run.root)
    for path in _allowed(run.tokenizer, TOKENIZER_FILES, run.root):
        encoder.setdefault(path.name, path)
    encoder["training_config.yaml"] = _public_config(run)
    if run.results.exists():
        encoder["results.json"] = _json(public_results(run.read_results()), indent=2)
    if run.metrics.exists():
        records = MetricsLog(run.metrics).read()
        encoder["metrics.jsonl"] = b"".join(_json(public_record(record)) for record in records)
    if run.tokenizer_report.exists():
        encoder["tokenizer_report.json"] = _json(public_record(read_json(run.tokenizer_report)), indent=2)
    return encoder


def model_files(folder: Path, root: Path) -> Files:
    """The publishable files of a transformers folder, and the pictures that its card shows.

    Configs that name a folder of this machine are rewritten.

    Args:
        root: of the run; nothing outside of it is sent.

    Raises:
        UserError: a symlink leads out of the run.
    """
    files: Files = {path.name: path for path in _allowed(folder, MODEL_FILES, root)}
    for name in ("config.json", "tokenizer_config.json"):
        if name not in files:
            continue
        data = read_json(folder / name)
        local = {key: value for key, value in data.items() if key.endswith(("name_or_path", "_file"))}
        if without_places(local) != local:
            files[name] = _json(data | without_places(local), indent=2)
    if "README.md" in files:
        shown = _PICTURE.findall((folder / "README.md").read_text(encoding="utf-8"))
        files |= {name: inside(root, folder / name) for name in shown if _is_picture(folder, name)}
    return files


def _is_picture(folder: Path, name: str) -> bool:
    return ".." not in name and (folder / name).is_file()


def _allowed(folder: Path, patterns: tuple[str, ...], root: Path) -> list[Path]:
    return sorted({path for pattern in patterns for path in files_inside(folder, pattern, within=root)})


def _public_config(run: RunDirectory) -> bytes:
    data, left_out = public_config(load_config(run.config).model_dump(mode="json"))
    note = "# The run's resolved configuration. Absolute paths are cut to their last component.\n"
    if left_out:
        keys = sorted({without_credentials(".".join(key.split(".")[:5])) for key in left_out})
        note += f"# Not published: {', '.join(keys)}.\n"
    return (note + write_yaml(data)).encode()


def _json(data: object, indent: int | None = None) -> bytes:
    return (dumps(data, indent=indent) + "\n").encode()


# -- what is refused -------------------------------------------------------------------------------------------


def refuse_secrets(run: RunDirectory, repositories: Sequence[Repository]) -> None:
    """Refuse a run whose config, or anything of which is to be sent, holds a secret.

    Raises:
        UserError: names the file, and the key where it is a config; never what it holds.
    """
    for key, what in find_secrets(load_config(run.config).model_dump(mode="json")):
        raise UserError(f"{run.config}: {key}: holds what looks like {what}; nothing was sent: {REMEDY}")
    known = _known_secrets()
    records = (run.config, run.results, run.metrics, run.tokenizer_report)
    texts: list[tuple[str, Path | bytes]] = [(str(path), path) for path in records if path.exists()]
    for repository in repositories:
        texts += [
            (str(data) if isinstance(data, Path) else f"{name} of {repository}", data)
            for name, data in repository.files.items()
            if not name.endswith((".safetensors", ".whl"))
        ]
    for place, data in texts:
        content = data if isinstance(data, bytes) else data.read_bytes()
        found = _secret_in(content, known, is_config=place.endswith("config.json"))
        if found:
            raise UserError(
                f"{place}: holds what looks like {found}; nothing was sent: remove it there, revoke it where it was "
                "issued, and push again"
            )


def _secret_in(content: bytes, known: dict[bytes, str], is_config: bool) -> str | None:
    """What a file holds that opens doors; None if nothing."""
    text = content.decode(errors="replace")
    if kind := find_credential(text, prose=True):
        return kind
    if is_config:
        with contextlib.suppress(ValueError):
            for key, what in find_secrets(json.loads(text)):
                return f"{what} ({key})"
    return next((name for value, name in known.items() if value in content), None)


def _known_secrets() -> dict[bytes, str]:
    """The login and the secrets of this process's environment, each with a word for it."""
    environment = {
        name: value
        for name, value in os.environ.items()
        # Where a secret lies is none, and `PWD` is the working directory. (`Path.exists` raises for what is long.)
        if names_secret(name) and len(value) >= 12 and not os.path.exists(value)  # noqa: PTH110
    }
    known = {value.encode(errors="replace"): f"the value of {name}" for name, value in environment.items()}
    login = (get_token() or "").encode()
    return known | ({login: "the Hub access token of your login"} if login else {})
