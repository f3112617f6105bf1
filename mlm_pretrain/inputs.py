"""What the stages depend on, as fingerprints: a stage whose inputs have not changed need not run again."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlm_pretrain.config import Config, fingerprint
from mlm_pretrain.io.digests import file_digest
from mlm_pretrain.records.provenance import source_commit

VERSIONED = ("mlm-pretrain", "torch", "transformers", "datasets", "tokenizers", "accelerate")


def text_inputs(config: Config) -> str:
    """What the tokenizer stage depends on, the corpus included."""
    from mlm_pretrain.text.sources import fingerprint_source

    corpus = [fingerprint_source(source) for source in config.text.sources]
    length = config.stream.sequence_length
    existing = folder_digests(config.tokenizer.path)
    checkpoint = config.model.path or config.model.init_from
    return fingerprint(corpus, config.text, config.tokenizer, existing, checkpoint, config.model.revision, length)


def model_inputs(config: Config) -> str:
    """What the pretrained model depends on."""
    from mlm_pretrain.training.resume import identity

    shards = str(config.prepare.deduplicate) if config.stream.prepared else None
    checkpoint = folder_digests(config.model.path or config.model.init_from)
    return fingerprint(identity(config, text_inputs(config), {}, shards), checkpoint)


def folder_digests(path: str | None) -> dict[str, Any]:
    """The digests of a local checkpoint's files; empty for a repository on the Hub."""
    folder = Path(path) if path else None
    if folder is None or not folder.is_dir():
        return {}
    kept = (".json", ".safetensors", ".txt", ".model")
    return {file.name: file_digest(file) for file in sorted(folder.iterdir()) if file.suffix in kept}


def versions() -> dict[str, str]:
    commit = source_commit()
    known = {"python": platform.python_version(), **{name: version(name) for name in VERSIONED}}
    return known | ({"mlm-pretrain commit": commit} if commit else {})
