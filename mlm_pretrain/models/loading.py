"""The one door through which checkpoints come in: configs, tokenizers and weights, from a folder or the Hub.

Three rules hold for every checkpoint. Code that it brings runs only if the person who types the command has said so, in
the command or in a config file of their own; opening a folder says nothing. Weights are safetensors; nothing is
unpickled, and nobody is asked to convert. What can't be used is one line: the library's reason, and what to do.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import torch
import transformers
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from mlm_pretrain.errors import UserError, causes, first_line, is_panic
from mlm_pretrain.io.digests import check_folder
from mlm_pretrain.io.paths import inside
from mlm_pretrain.models.ids import problems_of_tokens
from mlm_pretrain.models.new import quiet, refuse_kernel

# Else transformers asks a Space of the Hub to convert pickled weights, and takes what that one answers.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
OTHER_WEIGHTS = (".h5", ".msgpack", ".onnx", ".gguf")
ADAPTER_CONFIG = "adapter_config.json"
CHECKPOINT = "no transformers checkpoint there"
TOKENIZER = "no tokenizer there that loads (a whole tokenizer.json does)"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint by its name, with what may be done with it."""

    path: str
    """A folder, or a Hub repository."""
    revision: str | None = None
    trust_remote_code: bool = False
    """Whether code that it brings may run."""
    consent: str | None = None
    """How the user says so; None if there is no way to."""

    @classmethod
    def of(cls, place: Place) -> Checkpoint:
        return place if isinstance(place, Checkpoint) else cls(str(place))

    def __str__(self) -> str:
        return self.path

    @property
    def folder(self) -> Path | None:
        return Path(self.path) if Path(self.path).is_dir() else None

    def file(self, name: str) -> Path | None:
        """A file of it on this machine, fetched if need be; None if it has no such file.

        Raises:
            UserError: the checkpoint isn't there, or the name leads out of it.
        """
        inside(self.path, name, named_in=self.path, links=True)
        with self._opened():
            found = cached_file(
                self.path,
                name,
                revision=self.revision,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=not constants.HF_HUB_OFFLINE,
            )
        return Path(found) if found else None

    def config(self, **keys: Any) -> PreTrainedConfig:
        """
        Args:
            keys: of the transformers config, over the checkpoint's own.

        Raises:
            UserError: there is none, it isn't what was written, or it wants code that may not run.
        """
        if self.folder is not None:
            check_folder(self.folder)
        with self._opened():
            config = AutoConfig.from_pretrained(
                self.path, revision=self.revision, trust_remote_code=self.trust_remote_code, **keys
            )
        if not self.trust_remote_code:
            # A name as `someone/kernel` would be fetched from the Hub, and run.
            config._attn_implementation = None
        named = getattr(config, "transformers_weights", None)
        if named is not None and not str(named).endswith((".safetensors", ".safetensors.index.json")):
            raise self.pickled([str(named)])
        return config

    def check(self) -> None:
        """Refuse at once what could not be loaded later: no config, code of its own, no weights in safetensors.

        Raises:
            UserError: says why.
        """
        named = getattr(self.config(), "transformers_weights", None)
        if named is None and not any(self.file(name) for name in (*WEIGHTS, ADAPTER_CONFIG)):
            raise self._without_safetensors()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer, as transformers itself makes it of the files.

        Raises:
            UserError: there is none, or it can't be used.
        """
        with self._opened(TOKENIZER):
            tokenizer = AutoTokenizer.from_pretrained(self.path, revision=self.revision, trust_remote_code=False)
        for problem in problems_of_tokens(tokenizer):
            raise UserError(f"{self}: {problem}; mend the tokenizer's files, or take another (tokenizer.path)")
        return tokenizer

    def weights(self, auto_class: Any, config: PreTrainedConfig, **keys: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        """The model of `auto_class` in float32, and transformers' report on which weights it lacked.

        Args:
            auto_class: an Auto class, or a model's own.
            keys: as of `from_pretrained`.

        Raises:
            UserError: there are no weights in safetensors, they are damaged, or they are low-rank adapters; the
                attention is code of the Hub that may not run.
        """
        refuse_kernel(keys.get("attn_implementation"), self.trust_remote_code)
        if self.file(ADAPTER_CONFIG) is not None:
            raise UserError(
                f"{self}: holds adapters ({ADAPTER_CONFIG}), not a whole model; merge them into their encoder first"
            )
        with self._opened():
            return auto_class.from_pretrained(
                self.path,
                config=config,
                revision=self.revision,
                trust_remote_code=self.trust_remote_code,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **keys,
            )

    # -- what can't be used --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _opened(self, what: str = CHECKPOINT) -> Iterator[None]:
        if self.folder is None and (self.path.startswith(("/", ".", "~")) or self.path.count("/") > 1):
            raise UserError(f"{self}: there is no such folder; give a folder with a checkpoint, or a Hub repository")
        try:
            with quiet():
                yield
        except UserError:
            raise
        except BaseException as error:  # a missing, foreign or damaged checkpoint raises many classes
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            raise self._refusal(error, what) from None

    def _refusal(self, error: BaseException, what: str) -> UserError:
        reason, chain = first_line(error), list(causes(error))
        if "trust_remote_code" in str(error) and what == TOKENIZER:
            return UserError(
                f"{self}: its tokenizer is code of its own, which is never run; take a tokenizer.json (tokenizer.path)"
            )
        if "trust_remote_code" in str(error):
            remedy = "which never runs here; take a checkpoint of an architecture that transformers has"
            if self.consent is not None:
                remedy = f"which would run on this machine; read it, and if you trust it say so here: {self.consent}"
            return UserError(f"{self}: it brings code of its own, {remedy}")
        if isinstance(error, SafetensorError):
            return UserError(f"{self}: can't be loaded: damaged weights ({reason}); fetch or write them again")
        if "does not recognize this architecture" in str(error):
            return UserError(
                f"{self}: transformers {transformers.__version__} doesn't know its architecture ({reason}); a newer "
                "version may"
            )
        if "Unrecognized configuration class" in reason:
            wanted = reason.partition("AutoModel: ")[2].rstrip(".") or "that"
            return UserError(f"{self}: its architecture has no {wanted}; take a checkpoint of another")
        if WEIGHTS[0] in str(error) and (self.folder or not self._not_on_the_hub(chain)):
            return self._without_safetensors()
        if self.folder is not None:
            return UserError(f"{self}: {what}: {reason}")
        return self._not_on_the_hub(chain) or self._of_the_hub(error, reason)

    def _not_on_the_hub(self, chain: list[BaseException]) -> UserError | None:
        """What the Hub itself said of the repository."""
        page = f"{constants.ENDPOINT}/{self}"
        if any(isinstance(each, GatedRepoError) for each in chain):
            return UserError(
                f"{self}: a gated repository of the Hub: ask for access at {page}, then log in with `hf auth login` "
                "or set HF_TOKEN"
            )
        if any(isinstance(each, RevisionNotFoundError) for each in chain):
            return UserError(f"{self}: the Hub's repository has no revision '{self.revision}'; see {page}/tree/main")
        if any(isinstance(each, RepositoryNotFoundError) for each in chain):
            return UserError(
                f"{self}: neither a folder here nor a repository that the Hub shows you; check the name, and if it is "
                "private log in with `hf auth login` or set HF_TOKEN"
            )
        return None

    def _of_the_hub(self, error: BaseException, reason: str) -> UserError:
        if constants.HF_HUB_OFFLINE:
            return UserError(
                f"{self}: no folder, and no Hub repository whose files are in {constants.HF_HUB_CACHE} (offline, as "
                f"HF_HUB_OFFLINE says); unset it, or `hf download {self}` first"
            )
        unreached = (httpx2.TransportError, ConnectionError, TimeoutError)
        if any(isinstance(each, unreached) for each in causes(error)) or "couldn't connect" in str(error):
            return UserError(
                f"{self}: no folder, and the Hub can't be reached ({constants.ENDPOINT}: {reason}); check the "
                "network, or give a folder"
            )
        answers = [first_line(each) for each in causes(error) if isinstance(each, HfHubHTTPError)]
        return UserError(f"{self}: can't be loaded from the Hub: {answers[0] if answers else reason}")

    def _without_safetensors(self) -> UserError:
        """Which other weights there are."""
        try:
            names = [file.name for file in self.folder.iterdir()] if self.folder else self._files_on_the_hub()
        except (OSError, httpx2.HTTPError) as error:
            return self._of_the_hub(error, first_line(error))
        if pickles := sorted(name for name in names if name.endswith(PICKLES) and "training_args" not in name):
            return self.pickled(pickles)
        others = sorted(name for name in names if name.endswith(OTHER_WEIGHTS))
        there = f"only {', '.join(others[:3])}" if others else "none of another kind either"
        return UserError(f"{self}: no weights in safetensors ({there}); give a checkpoint that has model.safetensors")

    def _files_on_the_hub(self) -> list[str]:
        return HfApi().list_repo_files(self.path, revision=self.revision)

    def pickled(self, names: list[str]) -> UserError:
        """The refusal of weights that would have to be unpickled."""
        converted = "`AutoModelForMaskedLM.from_pretrained(…).save_pretrained(…)` writes model.safetensors"
        if self.folder is None:
            converted = (
                "take the pull request of the Hub's converter if there is one (revision: refs/pr/N, see "
                f"{constants.ENDPOINT}/{self}/discussions), or convert a copy that you trust: {converted}"
            )
        else:
            converted = f"convert it once if you trust it: {converted}"
        return UserError(
            f"{self}: its weights are pickled ({', '.join(names[:3])}), which can run code as they are read; only "
            f"safetensors are loaded: {converted}"
        )


Place = str | Path | Checkpoint


def typed(path: str | Path, trust_remote_code: bool) -> Checkpoint:
    """A checkpoint that a command names, with the flag that the command has for its code."""
    return Checkpoint(str(path), None, trust_remote_code, "--trust-remote-code")
