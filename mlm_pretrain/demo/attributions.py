"""Why this label: integrated gradients over the input embeddings (Sundararajan et al. 2017, arXiv 1703.01365)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlm_pretrain.demo.answers import Answer, note_truncation, pair_example
from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.models.new import quiet
from mlm_pretrain.tasks.adapter import MODEL_INPUTS, Feature
from mlm_pretrain.tasks.kinds.sequence import SequenceTask
from mlm_pretrain.tasks.serve.finished import FinishedModel

FIRST_STEPS, MOST_STEPS = 32, 256
"""Points on the path; doubled until the sum is right within `TOLERANCE`."""
TOLERANCE = 0.02
TOKENS_AT_ONCE = 4096


def attribute(model: FinishedModel, text: str, text_pair: str = "", label: str | None = None) -> Answer:
    """How much each token adds to a label's logit, beside the same row with [MASK] for every token.

    By completeness the values of all tokens sum to `logit` − `baseline`; what the sum over a finite number of points
    misses of it is `gap`.

    Args:
        label: by default the likeliest.

    Returns:
        `label`, `logit`, `baseline` (the logit of the masked row), `gap`, `steps`, and `pieces`, `{"text", "value",
        "part"}` in the order of the text: `value` is None between tokens, `part` 1 in the second text. Tokens that
        share a character are one piece, with the sum of their values, and one of no characters is part of the next.

    Raises:
        UserError: the text is empty, the model has no such label, or labels no texts.
    """
    if not isinstance(model.adapter, SequenceTask):
        raise UserError(f"{model.path}: a {model.task} model labels no whole text; attributions explain a text's label")
    notes: list[str] = []
    example = pair_example(model, text, text_pair, notes)
    (feature,) = model.adapter.encode([example])
    note_truncation(model, feature, notes)
    names = model.adapter.labels
    if label is not None and label not in names:
        raise UserError(f"The model has no label '{label}'{nearest(label, names)}")
    batch = model.adapter.collate([feature])
    inputs = {name: batch[name].to(model.model.device) for name in MODEL_INPUTS if name in batch}
    with torch.no_grad():
        number = int(model.model(**inputs).logits[0].argmax()) if label is None else names.index(label)
    values, logit, baseline, steps = integrated_gradients(model.model, inputs, _masked(model, feature), number)
    gap = abs(float(values.sum()) - (logit - baseline))
    if gap > 2 * TOLERANCE * max(abs(logit - baseline), 0.1):
        notes.append(f"The values are rough: after {steps} points their sum misses the difference by {gap:.3f}.")
    pieces = _pieces(model, example, feature, values.tolist())
    return {"label": names[number], "logit": logit, "baseline": baseline, "gap": gap, "steps": steps} | {
        "pieces": pieces,
        "notes": notes,
    }


def integrated_gradients(
    model: torch.nn.Module, inputs: dict[str, Tensor], baseline_ids: Tensor, number: int
) -> tuple[Tensor, float, float, int]:
    """The integral of the gradient of one logit along the straight line between two rows of embeddings.

    Args:
        inputs: what the model takes, int64 [1, tokens] each, `input_ids` among them.
        baseline_ids: int64 [1, tokens], where the line begins.
        number: of the logit.

    Returns:
        A value a token, float64 [tokens]; the logit at the end of the line and at its beginning; the points taken.
    """
    rest = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
    with torch.no_grad():
        embed = model.get_input_embeddings()
        start, end = embed(baseline_ids), embed(inputs["input_ids"])
        ends = model(inputs_embeds=torch.cat([end, start]), **_repeated(rest, 2)).logits[:, number].tolist()
    steps = FIRST_STEPS
    while True:
        values = _integral(model, rest, start, end, number, steps)
        gap = abs(float(values.sum()) - (ends[0] - ends[1]))
        if gap <= TOLERANCE * abs(ends[0] - ends[1]) or steps >= MOST_STEPS:
            return values, ends[0], ends[1], steps
        steps *= 2


def _integral(
    model: torch.nn.Module, rest: dict[str, Tensor], start: Tensor, end: Tensor, number: int, steps: int
) -> Tensor:
    """By Gauss-Legendre quadrature, which needs few points where gradients change smoothly."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros(start.shape[1:], dtype=torch.float64, device=start.device)
    size = max(TOKENS_AT_ONCE // start.shape[1], 1)
    for first in range(0, steps, size):
        share = start.new_tensor((nodes[first : first + size] + 1) / 2).view(-1, 1, 1)
        rows = (start + share * (end - start)).requires_grad_()
        logits = model(inputs_embeds=rows, **_repeated(rest, len(rows))).logits[:, number]
        (gradients,) = torch.autograd.grad(logits.sum(), rows)
        weight = torch.as_tensor(weights[first : first + size] / 2, device=start.device).view(-1, 1, 1)
        total += (gradients.double() * weight).sum(0)
    return (total * (end - start)[0].double()).sum(-1).cpu()


def _repeated(inputs: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    return {name: tensor.expand(rows, -1) for name, tensor in inputs.items()}


def _masked(model: FinishedModel, feature: Feature) -> Tensor:
    """The row with every token but the special ones masked, int64 [1, tokens]; padding where there is no mask."""
    tokenizer = model.adapter.tokenizer
    fill = tokenizer.pad_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    ids = [number if number in special else fill for number in feature["input_ids"]]
    return torch.tensor([ids], device=model.model.device)


def _pieces(model: FinishedModel, example: Any, feature: Feature, values: list[float]) -> list[dict[str, Any]]:
    """The text in pieces, with their values."""
    adapter = model.adapter
    tokenizer = adapter.tokenizer
    if not tokenizer.is_fast:
        names = tokenizer.convert_ids_to_tokens(feature["input_ids"])
        return [{"text": f"{n} ", "value": v, "part": 0} for n, v in zip(names, values, strict=True)]
    with quiet():
        encoded = tokenizer(
            example["text"],
            example.get("text_pair"),
            truncation="longest_first",
            max_length=adapter.max_length,
            return_offsets_mapping=True,
        )
    tokenizer.backend_tokenizer.no_truncation()
    pieces = []
    for part, text in enumerate([example["text"], *([example["text_pair"]] if "text_pair" in example else [])]):
        owned = [place for place, sequence in enumerate(encoded.sequence_ids()) if sequence == part]
        spans: list[tuple[int, int, float]] = []
        for place in owned:
            start, end = encoded["offset_mapping"][place]
            # Bytes of one character, or a token that stands for none (the blank that some put before a word).
            if spans and (start < spans[-1][1] or spans[-1][0] == spans[-1][1]):
                begin, before, value = spans.pop()
                spans.append((begin, max(before, end), value + values[place]))
            else:
                spans.append((start, end, values[place]))
        edges = [(0, 0), *((start, end) for start, end, _ in spans), (len(text), len(text))]
        for number, ((_, before), (start, end)) in enumerate(pairwise(edges)):
            if start > before:
                pieces.append({"text": text[before:start], "value": None, "part": part})
            if number < len(spans):
                pieces.append({"text": text[start:end], "value": spans[number][2], "part": part})
    return pieces
