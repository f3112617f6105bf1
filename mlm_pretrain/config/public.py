"""Plain data as it may be shown to others: what is known to be harmless, without places on this machine.

Numbers and truth values of a config or of records are shown; texts only under the keys that are listed here, so that
what nobody has decided about stays where it is. The rest is a second fence: paths are cut to their last component,
and what looks like a credential is removed wherever it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from mlm_pretrain.credentials import REMOVED, is_harmless, names_secret, without_credentials

_ABSOLUTE = re.compile(
    r"(?P<label>file:/{0,2}|[\w.:-]{2,}:)?(?P<path>(?:/(?!/)|~[\w.-]*[/\\]|[A-Za-z]:[\\/]).+)", re.DOTALL
)
_EMBEDDED = re.compile(r"(?<![\w.~*:/\])}-])(?:~[\w.-]*|[A-Za-z]:)?(?:[/\\][^\s/\\'\",;|]+){2,}[/\\]?")
_LOGIN = re.compile(r"(?<=://)[^\s/@]+@")


def _words(text: str) -> set[str]:
    return set(text.split())


_SOURCE = "source path name split revision data_dir data_files text_column label document encoding packages"
_OPTIMIZER = "optim lr_scheduler_type bf16"
_TASK = (
    "task name source path config_name revision train validation test text_column text_pair_column label_column "
    "tokens_column tags_column spans_column question_column context_column answers_column encoding quoting delimiter "
    "on_bad_examples label_names model encoder class_weight tagging_scheme eval_strategy metric_for_best_model"
)
# The keys of a config whose texts are shown, by the section that they are in.
_SHOWN = {
    "run": "name output_dir",
    "text": "stopping_strategy",
    "text.sources": f"{_SOURCE} quoting delimiter",
    "text.sources.filters": "include exclude",
    "tokenizer": "path revision add_tokens algorithm normalization",
    "stream": "prepared",
    "objective": "name masking mask_count",
    "model": "preset model_type path init_from init_embeddings revision attn_implementation",
    "training": f"{_OPTIMIZER} recipe torch_compile on_bad_loss report_to",
    "evaluation": "fill_mask",
    "tasks": f"{_TASK} {_OPTIMIZER}",
    "tasks.model": "path revision",
    "tasks.lora": "target_modules",
    "publish": "hub_model_id license language tags description",
}
_SHOWN_KEYS = {f"{section}.{key}" for section, keys in _SHOWN.items() for key in _words(keys)}
# Mappings whose keys are a user's own: those of them that are shown, numbers or not; None: all.
_OF_USERS: dict[str, set[str] | None] = {
    "text.sources.options": _words("columns field sample_by language languages date keep_linebreaks streaming"),
    "text.sources.data_files": None,
    "publish.citation": None,
}
# Of the keys of transformers configs and optimizers numbers are shown, and these words.
_ARCHITECTURE = _words(
    "hidden_act hidden_activation classifier_pooling classifier_activation position_embedding_type layer_types"
)
_ALSO_NUMBERS = ("model.config", "tasks.config", "training.optim_args", "tasks.optim_args")

# What stages write down; beside numbers these texts, by their keys.
_RESULTS = _words("text prepared recipe pretraining heldout fill_mask tasks seconds activities versions")
NAMES_AND_TEXTS = frozenset(("fill_mask", "by_class", "by_type", "confusion", "labels"))
"""What records hold under these keys: a slash in the name of a class, or in an example, is no path."""
_RECORD_TEXTS = _words(
    "task metric encoder labels classes device precision attention torch method country_iso_code versions "
    "stage reason checkpoint time model path longest_tokens unused_tokens optim lr_scheduler_type"
)


def public_config(data: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A config as it may be published.

    Args:
        data: all sections, as `Config.model_dump(mode="json")` gives them.

    Returns:
        The same without what isn't known to be harmless, and the dotted keys that were left out.
    """
    left_out: list[str] = []
    return without_places(_kept(data, (), _shown_of_config, left_out)), left_out


def public_results(data: dict[str, Any]) -> dict[str, Any]:
    """`results.json` as it may be published: what the stages write, as `public_record` shows it."""
    return public_record({key: value for key, value in data.items() if key in _RESULTS})


def public_record(data: dict[str, Any]) -> dict[str, Any]:
    """A record as it may be published: its numbers, and the texts under keys that are known to be harmless."""
    return without_places(_kept(data, (), _shown_of_record, []))


def _kept(data: Any, keys: tuple[str, ...], shown: Callable[[tuple[str, ...], Any], bool], left_out: list[str]) -> Any:
    """Plain data without the leaves that aren't shown, whose keys go into `left_out`; `_GONE` if nothing is left."""
    if not isinstance(data, dict | list) or not data:
        if shown(tuple(key for key in keys if not key.isdigit()), data):
            return data
        left_out.append(".".join(keys))
        return _GONE
    entries = data.items() if isinstance(data, dict) else enumerate(data)
    kept = {key: _kept(value, (*keys, str(key)), shown, left_out) for key, value in entries}
    kept = {key: value for key, value in kept.items() if value is not _GONE}
    if not kept:
        return _GONE if keys else {}
    return kept if isinstance(data, dict) else list(kept.values())


_GONE = object()


def _shown_of_config(keys: tuple[str, ...], value: Any) -> bool:
    place = ".".join(keys)
    if names_secret("".join(keys[-1:])) and not is_harmless(value):
        return False
    for section, known in _OF_USERS.items():
        if place.startswith(f"{section}."):
            return known is None or not known.isdisjoint(keys[len(section.split(".")) :][:1])
    if not isinstance(value, str):
        return True
    in_architecture = any(place.startswith(f"{section}.") for section in _ALSO_NUMBERS)
    return keys[-1] in _ARCHITECTURE if in_architecture else place in _SHOWN_KEYS


def _shown_of_record(keys: tuple[str, ...], value: Any) -> bool:
    if not NAMES_AND_TEXTS.isdisjoint(keys):  # a class may be called `token`
        return True
    if names_secret("".join(keys[-1:])) and not is_harmless(value):
        return False
    return not isinstance(value, str) or not _RECORD_TEXTS.isdisjoint(keys)


# -- the second fence ------------------------------------------------------------------------------------------------


def without_places(data: Any) -> Any:
    """Plain data without places on this machine and without credentials.

    An absolute path, in a key or a value, is cut to its last component (`/home/me/corpus.txt` → `corpus.txt`);
    credentials, logins in addresses, and values under keys such as `password` or `api_key` are removed.
    `NAMES_AND_TEXTS` are left as they are.
    """
    if isinstance(data, dict):
        public: dict[Any, Any] = {}
        for key, value in data.items():
            name = _public_text(key) if isinstance(key, str) else key
            while name in public:  # two paths that end alike stay two entries
                name = f"{name}'"
            if isinstance(key, str) and isinstance(value, str) and names_secret(key) and not is_harmless(value):
                public[name] = REMOVED
            else:
                public[name] = value if key in NAMES_AND_TEXTS else without_places(value)
        return public
    if isinstance(data, list):
        return [without_places(item) for item in data]
    return _public_text(data) if isinstance(data, str) else data


def _public_text(text: str) -> str:
    whole = _ABSOLUTE.fullmatch(text)
    if whole and (last := _last_component(whole["path"])):
        label = whole["label"] or ""
        return without_credentials(last if label.startswith("file:") else label + last)
    text = _LOGIN.sub("", without_credentials(text))
    return _EMBEDDED.sub(lambda match: _last_component(match[0]), text)


def _last_component(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
