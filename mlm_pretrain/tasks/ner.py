"""Named-entity recognition: a tag a word, IOB2, long sentences in windows."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerBase

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.adapter import (
    TASKS,
    Example,
    Feature,
    Prediction,
    TaskAdapter,
    column,
    probabilities,
)
from mlm_pretrain.tasks.schemes import check_tag, valid_iob2
from mlm_pretrain.telemetry import warn
from mlm_pretrain.training.loss import IGNORE_INDEX

Span = tuple[int, int]
"""First character and the one after the last."""


@TASKS.register("ner")
class TokenClassification(TaskAdapter):
    """Words in `tokens`, their IOB2 tags in `tags`.

    What is tokenised is the text: `text` with the character `spans` of its words where an example has them, else
    the words joined by single blanks. So the ids are those that raw text gets at prediction time (a byte-level
    tokenizer gives split words other ids). The first token of a word carries its label. A long text becomes windows
    that overlap by `stride` tokens, and each word is trained and scored once, in the window that shows most of its
    context. A word without a token of its own (a stray control character, say) is predicted O, never left out.

    Features have `words`: pairs of a token's position and the number of the word it stands for.
    """

    metric: ClassVar[str] = "f1"
    auto_class: ClassVar[Any] = AutoModelForTokenClassification
    architecture: ClassVar[str] = "ForTokenClassification"
    label_key: ClassVar[str] = "tags_column"
    reads_conll: ClassVar[bool] = True

    def __init__(
        self,
        labels: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        stride: int = 0,
        task: TaskConfig | None = None,
    ) -> None:
        """
        Raises:
            UserError: the tokenizer doesn't tell the characters of its tokens.
        """
        if not tokenizer.is_fast:
            raise UserError(
                f"{tokenizer.name_or_path}: NER needs a fast tokenizer (tokenizer.json), which tells character offsets"
            )
        super().__init__(labels, tokenizer, max_length, stride, task)

    @classmethod
    def make_example(cls, row: dict[str, Any], task: TaskConfig, place: str, labelled: bool = True) -> Example:
        tokens = column(row, "tokens_column", task, place)
        tags = column(row, "tags_column", task, place)
        for name, values in ((task.tokens_column, tokens), (task.tags_column, tags)):
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                raise UserError(f"{place}: {name} must be a list of strings")
        if len(tokens) != len(tags):
            raise UserError(f"{place}: {len(tokens)} {task.tokens_column} but {len(tags)} {task.tags_column}")
        for tag in tags:
            check_tag(tag, place)
        return {"tokens": tokens, "tags": valid_iob2(tags), "place": place}

    @classmethod
    def text_of(cls, example: Example) -> str:
        return example["text"] if "text" in example else " ".join(example["tokens"])

    @classmethod
    def label_names(cls, train: Sequence[Example], others: Iterable[Example], task: TaskConfig) -> list[str]:
        """O, then B- and I- of every type; a type that only validation or test have can't be learnt, but counts."""
        types = _types(train)
        if not types:
            raise UserError(f"{train[0]['place']}: every training tag is O; there is nothing to learn")
        for example in others:
            for name in sorted(_types([example]) - types):
                types.add(name)
                warn(f"{example['place']}: no training example has the type '{name}', so it counts as missed")
        return ["O", *(f"{prefix}-{name}" for name in sorted(types) for prefix in "BI")]

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        texts, spans = zip(*map(_text_and_spans, examples), strict=True) if examples else ((), ())
        encoded = self.tokenizer(
            list(texts),
            truncation=True,
            max_length=self.max_length,
            stride=self.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
        # Truncation is a setting of the tokenizer itself, and would be saved with it.
        self.tokenizer.backend_tokenizer.no_truncation()
        rows: list[list[int]] = [[] for _ in examples]
        for row, number in enumerate(encoded.pop("overflow_to_sample_mapping")):
            rows[number].append(row)
        offsets, special = encoded.pop("offset_mapping"), encoded.pop("special_tokens_mask")
        features = []
        for number, example in enumerate(examples):
            own = rows[number]
            masks, characters = [special[row] for row in own], [offsets[row] for row in own]
            positions = self._positions(masks, characters, spans[number])
            for row, words in zip(own, positions, strict=True):
                features.append(
                    {
                        **{name: encoded[name][row] for name in encoded},
                        "labels": self._labels(len(special[row]), words, example.get("tags")),
                        "example": number,
                        "words": words,
                    }
                )
        return features

    def predictions(
        self, examples: Sequence[Example], features: Sequence[Feature], logits: Sequence[np.ndarray]
    ) -> list[Prediction]:
        """`tags`, one a word and valid IOB2, and their `scores`, softmax probabilities (0 for a word without token)."""
        tags = [["O"] * len(example["tokens"]) for example in examples]
        scores = [[0.0] * len(example["tokens"]) for example in examples]
        for feature, row in zip(features, logits, strict=True):
            number, last = feature["example"], -1
            certain = probabilities(row[[position for position, _ in feature["words"]]])
            for (position, word), chances in zip(feature["words"], certain, strict=True):
                tag = self.labels[chances.argmax()]
                # Two words in one token are in one entity.
                tags[number][word] = f"I-{tag[2:]}" if position == last and tag != "O" else tag
                scores[number][word] = float(chances.max())
                last = position
        return [{"tags": valid_iob2(words), "scores": values} for words, values in zip(tags, scores, strict=True)]

    def majority(self, train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction]:
        """Every word gets the tag that it has most often in the training set, an unseen word O."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for example in train:
            for word, tag in zip(example["tokens"], example["tags"], strict=True):
                counts[word][tag] += 1
        commonest = {word: min(tags, key=lambda tag: (-tags[tag], tag)) for word, tags in counts.items()}
        return [{"tags": valid_iob2(commonest.get(word, "O") for word in example["tokens"])} for example in examples]

    def metrics(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """`f1`, `precision` and `recall` of entities, over all and `by_type`."""
        from mlm_pretrain.tasks.entity_metrics import EntityMetric

        return EntityMetric().compute(
            predictions=[prediction["tags"] for prediction in predictions],
            references=[example["tags"] for example in examples],
        )

    def _labels(self, length: int, words: list[tuple[int, int]], tags: list[str] | None) -> list[int]:
        labels = [IGNORE_INDEX] * length
        if tags is not None:
            for position, word in reversed(words):  # of two words in one token, the first labels it
                labels[position] = self.labels.index(tags[word])
        return labels

    def _positions(
        self, special: Sequence[list[int]], offsets: Sequence[list[Span]], spans: Sequence[Span]
    ) -> list[list[tuple[int, int]]]:
        """For each window of a text, the positions of the tokens that it has to label, each with its word.

        Args:
            special: a window's mask of the special tokens around its tokens of the text.
            offsets: the characters of a window's tokens.
            spans: the characters of the words.
        """
        step = self.max_length - self.tokenizer.num_special_tokens_to_add() - self.stride
        tokens: list[Span] = []
        windows = []
        for number, (mask, characters) in enumerate(zip(special, offsets, strict=True)):
            own = [span for span, is_special in zip(characters, mask, strict=True) if not is_special]
            windows.append(range(number * step, number * step + len(own)))
            tokens.extend(own[len(tokens) - number * step :])
        result: list[list[tuple[int, int]]] = [[] for _ in windows]
        for word, token in _first_tokens(tokens, spans):
            best = _window_with_most_context(windows, token)
            result[best].append((special[best].index(0) + token - windows[best].start, word))
        return result


def _window_with_most_context(windows: Sequence[range], token: int) -> int:
    """The window whose nearer end is farthest from the token; the text's own ends cut nothing off."""

    def context(number: int) -> float:
        left = token - windows[number].start if number > 0 else math.inf
        right = windows[number].stop - 1 - token if number < len(windows) - 1 else math.inf
        return min(left, right)

    return max((number for number in range(len(windows)) if token in windows[number]), key=context)


def _first_tokens(tokens: Sequence[Span], words: Sequence[Span]) -> Iterator[tuple[int, int]]:
    """Pairs (word, its first token), without the words that have none; both run in the order of the text."""
    token = 0
    for word, (start, end) in enumerate(words):
        while token < len(tokens) and tokens[token][1] <= start:
            token += 1
        if token < len(tokens) and tokens[token][0] < end:
            yield word, token


def _text_and_spans(example: Example) -> tuple[str, list[Span]]:
    if "text" in example:
        return example["text"], example["spans"]
    spans = []
    start = 0
    for word in example["tokens"]:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(example["tokens"]), spans


def _types(examples: Sequence[Example]) -> set[str]:
    return {tag[2:] for example in examples for tag in example["tags"] if tag != "O"}
