"""Named-entity recognition: words tagged in IOB2 or BIOES, entities by their words or characters."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.console.telemetry import say, warn
from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.adapter import TASKS, Example, Feature, Prediction
from mlm_pretrain.tasks.kinds.word_labelling import (
    Word,
    WordLabelling,
    by_file,
    commonest_labels,
    context,
    text_and_spans,
)
from mlm_pretrain.tasks.labels.columns import column, text_column
from mlm_pretrain.tasks.labels.schemes import (
    UNNAMED,
    Scheme,
    breaks,
    canonical,
    convert,
    entities_of,
    is_tag,
    scheme_of,
    spread,
    tags_of,
    typed,
    valid_iob2,
)
from mlm_pretrain.tasks.labels.spans import outermost, read_spans, tag_words
from mlm_pretrain.tasks.labels.unusable import BadExample
from mlm_pretrain.tasks.labels.words import split_words
from mlm_pretrain.tasks.scores.bag_of_words import BagOfWords


@TASKS.register("ner")
class TokenClassification(WordLabelling):
    """Words in `tokens`, their IOB2 tags in `tags`, whatever scheme the data or the model has.

    A word without a token is O.
    """

    metric: ClassVar[str] = "f1"

    def __init__(
        self,
        labels: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        stride: int = 0,
        task: TaskConfig | None = None,
    ) -> None:
        super().__init__(labels, tokenizer, max_length, stride, task)
        self._numbers = {canonical(label): number for number, label in enumerate(labels)}
        self._scheme: Scheme = "BIOES" if any(label[:1] in ("E", "S") for label in self._numbers) else "BIO"

    # -- data ----------------------------------------------------------------------------------------------------

    @classmethod
    def make_example(cls, row: dict[str, Any], task: TaskConfig, place: str, labelled: bool = True) -> Example:
        if labelled and task.spans_column in row and task.tokens_column not in row:
            return _from_spans(row, task, place)
        example = super().make_example(row, task, place, labelled)
        if labelled:
            given = [typed(tag, place, number) for number, tag in enumerate(example["tags"], start=1)]
            if given != example["tags"]:
                example["untyped"] = True
            example["tags"] = valid_iob2(given)
            if example["tags"] != given:
                example["given"] = given
        return example

    @classmethod
    def settle(cls, splits: dict[str, list[Example]], known: Collection[str] = ()) -> list[tuple[str, BadExample]]:
        """Tags without a type go with no others: beside types, theirs has been lost."""
        examples = [example for split in splits.values() for example in split]
        untyped = any("untyped" in example for example in examples)
        if not untyped or _types(examples) == {UNNAMED}:
            return []
        bad = []
        for split, rows in splits.items():
            for example in [example for example in rows if "untyped" in example]:
                problem = "tags without a type (B, I) in data whose tags have types"
                bad.append((split, BadExample(example["place"], problem, "tags without a type")))
            rows[:] = [example for example in rows if "untyped" not in example]
        return bad

    @classmethod
    def review(cls, examples: Sequence[Example]) -> None:
        for file, rows in by_file(examples):
            if sum(row.pop("untyped", False) for row in rows):
                say(f"{file}: its tags name no type of entity (B, I, O); the type is called '{UNNAMED}'")
            if any("given" in row for row in rows):
                _review_tags(file, rows)
            for kind, problem in (
                ("widened", "entities cut words; a word belongs to one entity as a whole"),
                ("nested", "entities stand in others and are left out"),
            ):
                notes = [f"{row['place']}, {note}" for row in rows for note in row.pop(kind, ())]
                if notes:
                    warn(f"{file}: {len(notes)} {problem}; the first: {notes[0]}")

    @classmethod
    def labels_in(cls, example: Example) -> list[str]:
        return [name for name, _, _ in entities_of(example["tags"])]

    def learnt(self) -> Collection[str]:
        return {label[2:] for label in self.labels if label != "O"}

    @classmethod
    def label_names(cls, train: Sequence[Example], task: TaskConfig) -> list[str]:
        """O, then the tags of every type."""
        types = _types(train)
        if not types:
            raise UserError(f"{train[0]['place']}: every training tag is O; there is nothing to learn")
        letters = "BIES" if task.tagging_scheme == "BIOES" else "BI"
        return ["O", *(f"{letter}-{name}" for name in sorted(types) for letter in letters)]

    @classmethod
    def serves(cls, config: PretrainedConfig) -> bool:
        return super().serves(config) and tags_entities(config)

    # -- the model's side ----------------------------------------------------------------------------------------

    def targets(self, example: Example) -> list[str]:
        return convert(example["tags"], self._scheme)

    def spread(self, label: str, count: int) -> list[str]:
        return spread(label, count)

    # -- after the model -----------------------------------------------------------------------------------------

    def predictions(
        self, examples: Sequence[Example], features: Sequence[Feature], logits: Sequence[np.ndarray]
    ) -> list[Prediction]:
        """`tags`, one a word and valid IOB2, and their `scores`, softmax probabilities (0 for a word without token)."""
        return [
            {"tags": _iob2(words), "scores": [word.score for word in words]}
            for words in self.by_word(examples, features, logits)
        ]

    def record(self, example: Example, prediction: Prediction) -> dict[str, Any]:
        """`entities`: `{type, start, end, text, score}` each; characters of the text, the mean score of the words."""
        text, spans = text_and_spans(example)
        found = []
        for name, first, last in entities_of(prediction["tags"]):
            start, end = spans[first][0], spans[last][1]
            scores = prediction["scores"][first : last + 1]
            score = sum(scores) / len(scores)
            found.append({"type": name, "start": start, "end": end, "text": text[start:end], "score": score})
        return {"entities": found}

    @classmethod
    def majority(cls, train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction]:
        """Every word gets the tag that it has most often in the training set, an unseen word O."""
        commonest = commonest_labels(train)
        return [{"tags": valid_iob2(commonest.get(word, "O") for word in example["tokens"])} for example in examples]

    def bag_of_words(self, train: Sequence[Example]) -> BagOfWords:
        from mlm_pretrain.tasks.scores.bag_of_tags import TagBag

        return TagBag(train, decode=valid_iob2)

    @classmethod
    def metrics(cls, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """`f1`, `precision` and `recall` of entities, over all, `by_type`, and `relaxed`."""
        from mlm_pretrain.tasks.scores.entity_metrics import EntityMetric

        return EntityMetric().compute(
            predictions=[prediction["tags"] for prediction in predictions],
            references=[example["tags"] for example in examples],
        )

    def errors(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """A record a mistake: `place`, `kind`, `type`, `text`, its `first` and `last` word, `context`.

        Kinds are `wrong_type` (with `predicted_type`), `wrong_span` (the type is right and the words overlap; with
        `predicted_text`), `missed` and `invented`.
        """
        from mlm_pretrain.tasks.scores.entity_metrics import mistakes

        found = []
        for example, prediction in zip(examples, predictions, strict=True):
            text, spans = text_and_spans(example)
            for kind, (name, first, last), predicted in mistakes(example["tags"], prediction["tags"]):
                start, end = spans[first][0], spans[last][1]
                record = {"place": example["place"], "kind": kind, "type": name}
                if kind == "wrong_type" and predicted:
                    record["predicted_type"] = predicted[0]
                record |= {"text": text[start:end], "first": first, "last": last}
                if kind == "wrong_span" and predicted:
                    record["predicted_text"] = text[spans[predicted[1]][0] : spans[predicted[2]][1]]
                found.append({**record, "context": context(text, start, end)})
        return found


def tags_entities(config: PretrainedConfig) -> bool:
    """Whether a model's labels are tags of entities: O and B-, I-, …"""
    labels = config.id2label.values()
    return all(map(is_tag, labels)) and any(label != "O" for label in labels)


def _from_spans(row: dict[str, Any], task: TaskConfig, place: str) -> Example:
    text = text_column(row, "text_column", task, place)
    given = read_spans(column(row, "spans_column", task, place), text, task.spans_column, place)
    kept, nested = outermost(given, place)
    spans = split_words(text)
    tags, widened = tag_words(text, spans, kept)
    example: Example = {"text": text, "spans": spans, "tokens": [text[start:end] for start, end in spans], "tags": tags}
    notes = {"nested": nested, "widened": widened}
    return {**example, "place": place, **{kind: found for kind, found in notes.items() if found}}


def _review_tags(file: str, rows: Sequence[Example]) -> None:
    sentences = [row.pop("given", row["tags"]) for row in rows]
    scheme = scheme_of(sentences)
    broken = [(number, word) for number, tags in enumerate(sentences) for word in breaks(tags, scheme)]
    if broken:
        number, word = broken[0]
        count = f"{len(broken)} tag{'s' * (len(broken) > 1)}"
        warn(
            f"{file}: {count} out of sequence ({scheme}), read as conlleval would; the first: "
            f"{rows[number]['place']}, word {word + 1}: '{sentences[number][word]}'"
        )


def _iob2(words: Sequence[Word]) -> list[str]:
    """Labels of any scheme as IOB2; words that share a token are in one entity."""
    heads = [number for number, word in enumerate(words) if not word.joined]
    ends = [following - 1 for _, following in pairwise([*heads, len(words)])]
    entities = entities_of(words[number].label or "O" for number in heads)
    return tags_of([(name, heads[first], ends[last]) for name, first, last in entities], len(words))


def _types(examples: Sequence[Example]) -> set[str]:
    return {tag[2:] for example in examples for tag in example["tags"] if tag != "O"}
