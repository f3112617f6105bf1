"""This very version of the package as a wheel, made from its files, whether it was installed or is a checkout."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

import mlm_pretrain
from mlm_pretrain.errors import UserError

NAME = "mlm-pretrain"
PACKAGE = Path(mlm_pretrain.__file__).parent
_KINDS = {".py", ".yaml", ".jinja", ".typed"}
"""Endings of what belongs to the package; what else a checkout has lying about stays where it is."""
_INFO = f"mlm_pretrain-{mlm_pretrain.__version__}.dist-info"
WHEEL = f"mlm_pretrain-{mlm_pretrain.__version__}-py3-none-any.whl"


def wheel() -> bytes:
    """The wheel; equal files give equal bytes.

    Raises:
        UserError: the package isn't installed, so that nobody knows what it needs.
    """
    files = {f"mlm_pretrain/{path.relative_to(PACKAGE).as_posix()}": path.read_bytes() for path in _sources()}
    about = _installed().read_text("METADATA") or _installed().read_text("PKG-INFO") or ""
    files[f"{_INFO}/METADATA"] = about.encode()
    files[f"{_INFO}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: mlm_pretrain\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{_INFO}/entry_points.txt"] = b"[console_scripts]\nmlm-pretrain = mlm_pretrain.cli:main\n"
    buffer = io.StringIO()
    record = csv.writer(buffer, lineterminator="\n")
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        record.writerow([name, f"sha256={digest}", len(content)])
    record.writerow([f"{_INFO}/RECORD", "", ""])
    files[f"{_INFO}/RECORD"] = buffer.getvalue().encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def requirements() -> list[str]:
    """What the page needs, each pinned to the version that is installed here."""
    lines = []
    for text in _installed().requires or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": "demo"}):
            continue
        try:
            version = Version(metadata.version(requirement.name))
        except metadata.PackageNotFoundError:
            version = Version("0.dev0")
        # A version under development, or a build of one's own (`+cpu`), is on no index.
        pin = str(requirement.specifier) if version.is_devrelease else f"=={version.public}"
        lines.append(f"{requirement.name}{pin}")
    return sorted(lines)


def _sources() -> list[Path]:
    # `configs` and `model_cards` of a checkout are links, which `rglob` doesn't follow.
    roots = [PACKAGE, *(path for path in PACKAGE.iterdir() if path.is_symlink() and path.is_dir())]
    found = {path for root in roots for path in root.rglob("*") if path.suffix in _KINDS and path.is_file()}
    # Other configs that a checkout has may be a user's own.
    configs = PACKAGE / "configs"
    return sorted(path for path in found if configs not in path.parents or path == configs / "quickstart.yaml")


def _installed() -> metadata.Distribution:
    try:
        return metadata.distribution(NAME)
    except metadata.PackageNotFoundError:
        raise UserError(
            f"{NAME} isn't installed here, so it isn't known what a Space needs: pip install -e ."
        ) from None
