"""What tasks that label words share: rows of words, windows, labels on tokens, predictions by the first token."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerBase

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.runtime.loss import IGNORE_INDEX
from mlm_pretrain.tasks.adapter import Example, Feature, TaskAdapter, probabilities
from mlm_pretrain.tasks.labels.columns import column, text_column
from mlm_pretrain.tasks.labels.names import is_gap, read_list
from mlm_pretrain.tasks.labels.unusable import BadExample
from mlm_pretrain.tasks.labels.windows import Windows, tokens_of_words
from mlm_pretrain.tasks.labels.words import Span, join_words, split_words

CONTEXT = 120
"""Characters of the text around a mistake."""


class Word(NamedTuple):
    """What the model says of a word."""

    label: str | None
    """None if the word has no token."""
    score: float
    joined: bool
    """Whether its token is that of the word before it."""


class WordLabelling(TaskAdapter):
    """Words in `tokens`, a label each in `tags`.

    What is tokenised is the text: `text` with the character `spans` of its words where an example has them, else
    the words joined by single blanks. So the ids are those that raw text gets at prediction time (a byte-level
    tokenizer gives split words other ids). The first token of a word carries its label, with `label_all_tokens` every
    one; predictions are those of the first. A long text becomes windows that overlap by `stride` tokens, and each
    token is trained and each word scored once, in the window that shows most of its context. A word without a token
    of its own (a stray control character, say) is never left out.

    Features have `words`: pairs of a token's position and the number of the word it stands for.
    """

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
                f"{tokenizer.name_or_path}: labelling words needs a fast tokenizer (tokenizer.json), which tells "
                "character offsets"
            )
        super().__init__(labels, tokenizer, max_length, stride, task)
        self._numbers = {label: number for number, label in enumerate(labels)}
        self._all_tokens = task is not None and task.label_all_tokens

    # -- data ----------------------------------------------------------------------------------------------------

    @classmethod
    def make_example(cls, row: dict[str, Any], task: TaskConfig, place: str, labelled: bool = True) -> Example:
        if not labelled:
            return _unlabelled(row, task, place)
        tokens = strings(column(row, "tokens_column", task, place), task.tokens_column, place)
        given = column(row, "tags_column", task, place)
        if isinstance(given, list) and given and all(type(tag) is int for tag in given):
            given = list(map(str, given))
        tags = strings(given, task.tags_column, place)
        if len(tokens) != len(tags):
            problem = f"{len(tokens)} {task.tokens_column} but {len(tags)} {task.tags_column}"
            raise BadExample(place, problem, "words and tags differ in number")
        if not all(map(str.strip, tags)):
            number = [bool(tag.strip()) for tag in tags].index(False) + 1
            raise BadExample(place, f"no label in {task.tags_column}", "a word without a label", f"word {number}")
        return {"tokens": tokens, "tags": tags, "place": place}

    @classmethod
    def review(cls, examples: Sequence[Example]) -> None:
        """Say, a line a file, what had to be mended to read its examples; what that takes is removed from them."""

    @classmethod
    def text_of(cls, example: Example) -> str:
        return example["text"] if "text" in example else " ".join(example["tokens"])

    # -- the model's side ----------------------------------------------------------------------------------------

    def targets(self, example: Example) -> list[str]:
        """The model's label of every word."""
        return list(example["tags"])

    def spread(self, label: str, count: int) -> list[str]:
        """The labels of the `count` tokens of a word."""
        return [label] * count

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        if not examples:
            return []
        texts, spans = zip(*map(text_and_spans, examples), strict=True)
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
        step = self.max_length - self.tokenizer.num_special_tokens_to_add() - self.stride
        features = []
        for number, example in enumerate(examples):
            own = rows[number]
            windows = Windows([special[row] for row in own], [offsets[row] for row in own], step)
            labels = [[IGNORE_INDEX] * len(special[row]) for row in own]
            words = self._label(windows, spans[number], labels, self.targets(example) if "tags" in example else None)
            for row, window_words, window_labels in zip(own, words, labels, strict=True):
                inputs = {name: encoded[name][row] for name in encoded}
                features.append({**inputs, "labels": window_labels, "example": number, "words": window_words})
        return features

    def _label(
        self, windows: Windows, spans: Sequence[Span], labels: list[list[int]], targets: list[str] | None
    ) -> list[list[tuple[int, int]]]:
        """Fill in the labels of a text's windows, and give for each window the positions and numbers of its words."""
        words: list[list[tuple[int, int]]] = [[] for _ in labels]
        labelled = 0  # of two words in one token, the first labels it
        for word, tokens in tokens_of_words(windows.tokens, spans):
            window, position = windows.home(tokens.start)
            words[window].append((position, word))
            if targets is None:
                continue
            carriers = tokens if self._all_tokens else tokens[:1]
            for token, label in zip(carriers, self.spread(targets[word], len(carriers)), strict=True):
                if token >= labelled:
                    window, position = windows.home(token)
                    # A finished model may not know the label: then it can only be missed.
                    labels[window][position] = self._numbers.get(label, IGNORE_INDEX)
            labelled = max(labelled, carriers.stop)
        return words

    # -- after the model -----------------------------------------------------------------------------------------

    def by_word(
        self, examples: Sequence[Example], features: Sequence[Feature], logits: Sequence[np.ndarray]
    ) -> list[list[Word]]:
        """What the model says of every word, from the word's first token; scores are softmax probabilities."""
        said = [[Word(None, 0.0, False)] * len(example["tokens"]) for example in examples]
        for feature, row in zip(features, logits, strict=True):
            words = said[feature["example"]]
            before = (-1, -1)
            certain = probabilities(row[[position for position, _ in feature["words"]]])
            for (position, word), chances in zip(feature["words"], certain, strict=True):
                joined = before == (position, word - 1)
                words[word] = Word(self.labels[chances.argmax()], float(chances.max()), joined)
                before = (position, word)
        return said


def commonest_labels(train: Sequence[Example]) -> dict[str, str]:
    """For every word of the training set the label that it has most often, the first by the alphabet of several."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for example in train:
        for word, tag in zip(example["tokens"], example["tags"], strict=True):
            counts[word][tag] += 1
    return {word: min(tags, key=lambda tag: (-tags[tag], tag)) for word, tags in counts.items()}


def strings(value: Any, name: str, place: str) -> list[str]:
    """A column of words or labels: a list, or (in csv) a string with blanks between, or a list of strings in quotes.

    Raises:
        BadExample: something else.
    """
    if isinstance(value, str):
        given = read_list(value) if "'" in value or '"' in value else None
        value = [part for part in value.split(" ") if part] if given is None else given
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        problem = f"{name} must be a list of strings, or a string with blanks between them"
        raise BadExample(place, problem, f"no {name}" if is_gap(value) else f"{name} is no list of strings")
    return value


def text_and_spans(example: Example) -> tuple[str, list[Span]]:
    """The text of an example, and the characters of its words."""
    return (example["text"], example["spans"]) if "text" in example else join_words(example["tokens"])


def context(text: str, start: int, end: int) -> str:
    """The text around some of its characters, about 120 characters long."""
    room = max((CONTEXT - (end - start)) // 2, 0)
    before, after = max(start - room, 0), min(end + room, len(text))
    return f"{'…' * (before > 0)}{text[before:after]}{'…' * (after < len(text))}"


def by_file(examples: Sequence[Example]) -> Iterator[tuple[str, list[Example]]]:
    """The examples of each file, split or other source, as their places tell it."""
    files: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        files[re.sub(r"(:|, (\w+ )*)\d+$", "", example["place"])].append(example)
    yield from files.items()


def _unlabelled(row: dict[str, Any], task: TaskConfig, place: str) -> Example:
    """The words of a text, or the text of words."""
    if task.tokens_column in row and task.text_column not in row:
        tokens = strings(row[task.tokens_column], task.tokens_column, place)
        text, spans = join_words(tokens)
    else:
        text = text_column(row, "text_column", task, place)
        spans = split_words(text)
        tokens = [text[start:end] for start, end in spans]
    return {"text": text, "spans": spans, "tokens": tokens, "place": place}
