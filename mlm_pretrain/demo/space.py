"""A Space of the Hub that serves the page: the files of its repository."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from mlm_pretrain import __version__
from mlm_pretrain.config import PublishConfig
from mlm_pretrain.config_file import load_config
from mlm_pretrain.demo.wheel import WHEEL, requirements, wheel
from mlm_pretrain.hub.files import Repository
from mlm_pretrain.records.facts import task_folders
from mlm_pretrain.run import RunDirectory

SDK_VERSION = "6.31.0"
"""Of Gradio, which a Space installs by itself."""

APP = """\
import sys
import tempfile
import zipfile
from pathlib import Path

# A Space installs requirements.txt before the files of its repository are there: the package comes from its wheel here.
folder = tempfile.mkdtemp()
zipfile.ZipFile(Path(__file__).with_name("{wheel}")).extractall(folder)
sys.path.insert(0, folder)

from mlm_pretrain.demo import serve

MODELS = {models}

serve(MODELS, host="0.0.0.0", port=7860)
"""

README = """\
---
{front}---

# {title}

A page to play with {links}, made with `mlm-pretrain demo`.

The Space holds `mlm-pretrain` {version} itself, as `{wheel}`, and installs what it needs in the versions
that it was made with. If the models are private, give the Space a secret `HF_TOKEN` that may read them (Settings →
Variables and secrets).
"""


def space(run: RunDirectory, publish: PublishConfig) -> Repository:
    """The Space of a run, `<hub_model_id>-demo`, with its encoder and its tasks' models as `push` names them."""
    encoder = str(publish.hub_model_id)
    models = [encoder] if (run.model / "config.json").is_file() else []
    models += [f"{encoder}-{folder.name}" for folder in task_folders(run) if any(folder.glob("model*.safetensors"))]
    title = load_config(run.config).run.name
    files: dict[str, bytes | Path] = {**space_files(title, models, publish.license)}
    return Repository(f"{encoder}-demo", files, repo_type="space", space_sdk="gradio")


def space_files(title: str, models: Sequence[str], licence: str | None = None) -> dict[str, bytes]:
    """What goes into the repository of a Space.

    Args:
        title: of the page.
        models: repositories on the Hub, the encoder's first.
        licence: as the Hub names it, `apache-2.0` say.

    Returns:
        Name → content: `README.md`, `app.py`, `requirements.txt`, and the wheel of this package.

    Raises:
        UserError: the package isn't installed.
    """
    front = {
        "title": title,
        "emoji": "🧩",
        "colorFrom": "blue",
        "colorTo": "green",
        "sdk": "gradio",
        "sdk_version": SDK_VERSION,
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "pinned": False,
        **({"license": licence} if licence else {}),
        "models": list(models),
    }
    readme = README.format(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        title=title,
        links=", ".join(f"[{model}](https://huggingface.co/{model})" for model in models),
        version=__version__,
        wheel=WHEEL,
    )
    files = {
        "README.md": readme,
        "app.py": APP.format(models=_as_list(models), wheel=WHEEL),
        "requirements.txt": "".join(f"{line}\n" for line in requirements()),
    }
    return {**{name: text.encode() for name, text in files.items()}, WHEEL: wheel()}


def _as_list(models: Sequence[str]) -> str:
    return "[\n" + "".join(f"    {model!r},\n" for model in models) + "]"
