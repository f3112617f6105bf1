"""What a masked language model is worth: held-out loss and accuracy, by source, and a few guesses to look at."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from mlm_pretrain.config import Config
from mlm_pretrain.console import bars, spent, telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.hardware.device import make_accelerator
from mlm_pretrain.models.attention.packed import supports_packing
from mlm_pretrain.models.build import made_by
from mlm_pretrain.models.ids import vocabulary_size
from mlm_pretrain.models.masked_head import MaskedLogits
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.text.mixture import source_names
from mlm_pretrain.text.tokenizing.tokenizer import load_tokenizer
from mlm_pretrain.training.validate import HeldOutSet, check_loss, held_out_pass

MASK = "[MASK]"


def evaluate(config: Config, run: RunDirectory) -> dict[str, Any]:
    """Score the run's exported model on its held-out documents, and let it guess.

    Returns:
        `{"heldout": …, "fill_mask": …}` as in `results.json`.

    Raises:
        UserError: the model can't be loaded, or there is no held-out text.
    """
    place = made_by(run, config.model)
    model, _ = place.weights(AutoModelForMaskedLM, place.config())
    tokenizer = load_tokenizer(place)
    # The precision that the run was trained in, not another measurement.
    trained = run.read_results().get("pretraining", {})
    accelerator = make_accelerator(config.training, trained.get("precision"))
    packing = supports_packing(model)
    model = model.to(accelerator.device).eval()
    names = source_names(config.text)
    held_out = HeldOutSet(run.validation, tokenizer, config.stream.sequence_length, names, packing)
    forward = MaskedLogits(model, packing)
    size = config.training.per_device_eval_batch_size
    with spent.on("scoring held-out text"):
        figures = held_out_pass(forward, held_out, size, accelerator.device, accelerator.autocast)
    forward.close()
    again = f"`mlm-pretrain pretrain {run.root} --force` writes it again"
    remedy = f"its weights are damaged, or not of this tokenizer; {again}"
    check_loss(figures, vocabulary_size(tokenizer), str(run.model), remedy)
    with bars.doing("guessing masked words"):
        guesses = [fill_mask(model, tokenizer, text) for text in config.evaluation.fill_mask]
    return {"heldout": figures, "fill_mask": guesses}


@torch.inference_mode()
def fill_mask(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, guesses: int = 3
) -> dict[str, Any]:
    """The likeliest tokens for the one mask of a text, and their probabilities.

    Raises:
        UserError: the text has no mask, or more than one.
    """
    encoded = tokenizer(
        text.replace(MASK, tokenizer.mask_token),
        return_tensors="pt",
        truncation=True,
        return_token_type_ids=False,
    ).to(model.device)
    places = (encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
    if len(places) != 1:
        raise UserError(f"evaluation.fill_mask: '{text}' has {len(places)} masks; write {MASK} once")
    probabilities = model(**encoded).logits[0, places[0]].float().softmax(dim=-1)
    scores, tokens = probabilities.topk(guesses)
    predictions = [
        {"token": tokenizer.decode([token]).strip(), "score": score}
        for token, score in zip(tokens.tolist(), scores.tolist(), strict=True)
    ]
    return {"text": text, "predictions": predictions}


def format_figures(figures: dict[str, Any]) -> str:
    """The held-out figures as a table, a line a source."""
    header = ("held-out", "loss", "perplexity", "accuracy", "top-5", "masked tokens")
    rows = [_row(name, part) for name, part in figures["by_source"].items()]
    if len(rows) != 1:
        rows.append(_row("all", figures))
    return telemetry.table(rows, header)


def _row(name: str, part: dict[str, Any]) -> tuple[str, ...]:
    return (
        name,
        telemetry.figure(part["loss"], ".4f"),
        telemetry.figure(part["perplexity"], ".2f"),
        telemetry.figure(part["accuracy"], ".4f"),
        telemetry.figure(part["top5_accuracy"], ".4f"),
        f"{part['masked_tokens']:,}",
    )
