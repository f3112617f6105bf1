"""What models say of a text: functions from text to plain data, which the page shows.

Every answer has `notes`, lines that tell what of the input was left out. Input that can't be answered is a `UserError`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from mlm_pretrain.errors import UserError
from mlm_pretrain.models.encoder import load_config, load_model, load_tokenizer, window_length
from mlm_pretrain.models.new import quiet
from mlm_pretrain.tasks.adapter import Example, probabilities
from mlm_pretrain.tasks.inference.logits import cut_texts, logits_of
from mlm_pretrain.tasks.serve.embed import Encoder
from mlm_pretrain.tasks.serve.finished import FinishedModel

Answer = dict[str, Any]

MASK = "[MASK]"
"""How a mask may be written, whatever the tokenizer calls it."""
MOST_CHARACTERS = 20_000
"""Of a text; windows have no end, and the page shall answer in seconds."""
MOST_CANDIDATES = 500
"""Lines among which neighbours are looked for."""
MOST_TOKENS = 1_000
"""Rows of the tokenizer's table."""
BATCH = 8


class MaskedLanguageModel:
    """An encoder with its masked-language-modelling head, in evaluation mode on the GPU if there is one."""

    def __init__(self, path: str | Path) -> None:
        """
        Raises:
            UserError: there is no such model, its tokenizer doesn't belong to it, or has no mask.
        """
        config = load_config(path)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(path, config)
        if self.tokenizer.mask_token is None:
            raise UserError(f"{path}: the tokenizer has no mask token; a masked language model's is needed")
        self.max_length = window_length(config, self.tokenizer)
        self.model: PreTrainedModel = load_model(AutoModelForMaskedLM, path, config)
        self.model.eval().to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def checked(text: str | None, what: str, notes: list[str]) -> str:
    """A text as models can take it; that it was cut is noted.

    Raises:
        UserError: there is nothing in it.
    """
    # Half a character (a lone surrogate) can't be tokenised.
    text = (text or "").encode("utf-8", "replace").decode("utf-8")
    if not text.strip():
        raise UserError(f"{what} is empty; write something")
    if len(text) > MOST_CHARACTERS:
        notes.append(f"{what} has {len(text):,} characters; the page reads the first {MOST_CHARACTERS:,}.")
    return text[:MOST_CHARACTERS]


def fill_mask(model: MaskedLanguageModel, text: str, guesses: int = 5) -> Answer:
    """The likeliest tokens for every mask of a text, each with the others still masked.

    Returns:
        `masks`: for each, in the order of the text, its guesses, `{"token", "score"}` with softmax probabilities.

    Raises:
        UserError: the text is empty or has no mask.
    """
    notes: list[str] = []
    tokenizer = model.tokenizer
    text = checked(text, "The text", notes).replace(MASK, tokenizer.mask_token)
    with quiet():  # its warning about long texts: they are cut here
        whole = tokenizer(text, return_token_type_ids=False)["input_ids"]
    ids = tokenizer(text, return_token_type_ids=False, truncation=True, max_length=model.max_length)["input_ids"]
    _no_truncation(tokenizer)
    wanted, places = whole.count(tokenizer.mask_token_id), _places(ids, tokenizer.mask_token_id)
    if not wanted:
        raise UserError(f"The text has no mask; write {MASK} where the model is to guess")
    if len(whole) > len(ids):
        notes.append(f"The text has {len(whole):,} tokens and was cut to {len(ids):,}, what the model takes.")
    if len(places) < wanted:
        notes.append(f"{wanted - len(places)} of {wanted} masks are in what was cut off.")
    with torch.inference_mode():
        logits = model.model(input_ids=torch.tensor([ids], device=model.model.device)).logits[0, places]
        scores, tokens = logits.float().softmax(dim=-1).topk(min(guesses, logits.shape[-1]))
    masks = [
        [{"token": tokenizer.decode([token]).strip(), "score": score} for token, score in zip(*each, strict=True)]
        for each in zip(tokens.tolist(), scores.tolist(), strict=True)
    ]
    return {"masks": masks, "notes": notes}


def classify(model: FinishedModel, text: str, text_pair: str = "") -> Answer:
    """What a model of a classification or a regression says of a text, or of a pair.

    Returns:
        `scores`, a mapping from every label to its (calibrated) probability, the likeliest first, and `predicted`,
        the labels chosen; of a regression only `number`.

    Raises:
        UserError: the text is empty.
    """
    notes: list[str] = []
    example = pair_example(model, text, text_pair, notes)
    features = model.adapter.encode([example])
    note_truncation(model, features[0], notes)
    logits = logits_of(model.adapter, model.model, features, BATCH)
    (prediction,) = model.adapter.predictions([example], features, logits)
    if model.task == "regression":
        return {"number": prediction["score"], "notes": notes}
    if "chances" in prediction:
        chances, predicted = prediction["chances"].tolist(), prediction["labels"]
    else:
        temperature = getattr(model.adapter, "temperature", 1.0)
        chances, predicted = probabilities(logits[0] / temperature).tolist(), [prediction["label"]]
    scores = dict(zip(model.adapter.labels, chances, strict=True))
    ranked = dict(sorted(scores.items(), key=lambda item: -item[1]))
    return {"scores": ranked, "predicted": predicted, "notes": notes}


def label_words(model: FinishedModel, text: str) -> Answer:
    """The entities of a text, or the tags of its words.

    Returns:
        `text`, and `spans` of it without overlaps: `{"start", "end", "label", "score"}` in characters.

    Raises:
        UserError: the text is empty.
    """
    notes: list[str] = []
    text = checked(text, "The text", notes)
    example = model.adapter.make_example({"text": text}, model.task_config(), "the text", labelled=False)
    (prediction,) = model.predictions([example], BATCH)
    record = model.adapter.record(example, prediction)
    spans = [
        {"start": each["start"], "end": each["end"], "label": each.get("type") or each["tag"], "score": each["score"]}
        for each in record.get("entities", record.get("words", ()))
    ]
    return {"text": text, "spans": spans, "notes": notes}


def answer_question(model: FinishedModel, question: str, context: str) -> Answer:
    """The span of a context that answers a question.

    Returns:
        `text`, the context; `answer`, "" where the model finds none, its `start` and `end` in characters, its `score`.

    Raises:
        UserError: question or context is empty.
    """
    notes: list[str] = []
    question = checked(question, "The question", notes)
    row = {"question": question, "context": checked(context, "The context", notes)}
    example = model.adapter.make_example(row, model.task_config(), "the question", labelled=False)
    (prediction,) = model.predictions([example], BATCH)
    return {"text": example["context"], **model.adapter.record(example, prediction), "notes": notes}


def neighbours(encoder: Encoder, sentence: str, candidates: str) -> Answer:
    """Lines by the cosine of their embedding with a sentence's, the nearest first.

    Args:
        encoder: one that normalises.
        candidates: one a line; empty lines are skipped.

    Returns:
        `neighbours`: `{"text", "cosine"}` each.

    Raises:
        UserError: the sentence is empty, or there are no candidates.
    """
    notes: list[str] = []
    sentence = checked(sentence, "The sentence", notes)
    given = checked(candidates, "The list of candidates", notes).splitlines()
    lines = [line.strip() for line in given if line.strip()]
    if len(lines) > MOST_CANDIDATES:
        notes.append(f"{len(lines):,} candidates; the page compares the first {MOST_CANDIDATES}.")
        lines = lines[:MOST_CANDIDATES]
    before = encoder.truncated
    vectors = encoder([sentence, *lines], BATCH)
    cut = encoder.truncated - before
    if cut:
        notes.append(f"{cut_texts(cut, encoder.max_length)}.")
    cosines = vectors[1:] @ vectors[0]
    order = np.argsort(-cosines, kind="stable")
    return {"neighbours": [{"text": lines[i], "cosine": float(cosines[i])} for i in order], "notes": notes}


def tokenise(tokenizer: PreTrainedTokenizerBase, text: str) -> Answer:
    """What the tokenizer makes of a text, special tokens left out.

    Returns:
        `text`; `tokens`, `{"token", "id", "start", "end", "unknown"}` each, with the characters that a token stands
        for (None if the tokenizer doesn't tell); `count` of all tokens, and of the `unknown` among them.

    Raises:
        UserError: the text is empty.
    """
    notes: list[str] = []
    text = checked(text, "The text", notes)
    with quiet():
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    ids = encoded["input_ids"]
    offsets = encoded.get("offset_mapping") or [(None, None)] * len(ids)
    if len(ids) > MOST_TOKENS:
        notes.append(f"The first {MOST_TOKENS:,} of {len(ids):,} tokens are shown.")
    names = tokenizer.convert_ids_to_tokens(ids[:MOST_TOKENS])
    rows = [
        {"token": name, "id": number, "start": start, "end": end, "unknown": number == tokenizer.unk_token_id}
        for name, number, (start, end) in zip(names, ids, offsets, strict=False)
    ]
    unknown = ids.count(tokenizer.unk_token_id)
    return {"text": text, "tokens": rows, "count": len(ids), "unknown": unknown, "notes": notes}


def pair_example(model: FinishedModel, text: str, text_pair: str, notes: list[str]) -> Example:
    """An example for tasks that read a text or a pair of them."""
    example: Example = {"text": checked(text, "The text", notes), "place": "the text"}
    if text_pair and text_pair.strip():
        example["text_pair"] = checked(text_pair, "The second text", notes)
    elif model.adapter.takes_pairs:
        notes.append("This model was trained on pairs of texts; give the second one too.")
    return example


def note_truncation(model: FinishedModel, feature: dict[str, Any], notes: list[str]) -> None:
    if feature.get("truncated"):
        notes.append(f"The text was cut to {model.adapter.max_length} tokens, what the model takes.")


def _places(ids: list[int], wanted: int) -> list[int]:
    return [place for place, number in enumerate(ids) if number == wanted]


def _no_truncation(tokenizer: PreTrainedTokenizerBase) -> None:
    # Truncation is a setting of a fast tokenizer itself, and would hold for the next call.
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
