"""A finished model with its tokenizer, as a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from mlm_pretrain.errors import UserError
from mlm_pretrain.io.whole import write_folder
from mlm_pretrain.models.new import quiet
from mlm_pretrain.runtime.bad_loss import Diverged, first_not_finite_in


def export(save: Callable[[Path], Any], tokenizer: PreTrainedTokenizerBase, out: Path, remedy: str = "") -> None:
    """Write model and tokenizer into a folder, whole or not at all; what stood there is replaced.

    Args:
        save: writes the model into a folder, as `save_pretrained` does.
        remedy: for the error if weights are not finite.

    Raises:
        UserError: the folder can't be written.
        Diverged: there are weights that are not finite.
    """

    def fill(folder: Path) -> None:
        with quiet():
            save(folder)
            tokenizer.save_pretrained(folder)
        if broken := first_not_finite_in(folder):
            raise Diverged(
                "; ".join(filter(None, [f"{out}: the weights {broken} are not finite, and are not kept", remedy]))
            )

    try:
        write_folder(out, fill, manifest=True)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{out}: can't write the model: {getattr(error, 'strerror', None) or error}") from None
