"""Labels of words that form no spans: parts of speech, say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from transformers import PretrainedConfig

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.adapter import TASKS, Example, Feature, Prediction
from mlm_pretrain.tasks.kinds.ner import tags_entities
from mlm_pretrain.tasks.kinds.word_labelling import WordLabelling, commonest_labels, context, text_and_spans
from mlm_pretrain.tasks.scores.bag_of_words import BagOfWords


@TASKS.register("tagging")
class Tagging(WordLabelling):
    """Words in `tokens`, any label each in `tags`. A word without a token gets the model's first label."""

    metric: ClassVar[str] = "accuracy"

    @classmethod
    def labels_in(cls, example: Example) -> list[str]:
        return list(example["tags"])

    @classmethod
    def label_names(cls, train: Sequence[Example], task: TaskConfig) -> list[str]:
        """The labels of the training set by the alphabet."""
        names = {tag for example in train for tag in example["tags"]}
        if len(names) < 2:
            raise UserError(
                f"{train[0]['place']}: every training tag is '{next(iter(names), '')}'; two labels are needed"
            )
        return sorted(names)

    @classmethod
    def serves(cls, config: PretrainedConfig) -> bool:
        return super().serves(config) and not tags_entities(config)

    def predictions(
        self, examples: Sequence[Example], features: Sequence[Feature], logits: Sequence[np.ndarray]
    ) -> list[Prediction]:
        """`tags`, one a word, and their `scores`, softmax probabilities (0 for a word without token)."""
        return [
            {"tags": [word.label or self.labels[0] for word in words], "scores": [word.score for word in words]}
            for words in self.by_word(examples, features, logits)
        ]

    def record(self, example: Example, prediction: Prediction) -> dict[str, Any]:
        """`words`: `{word, start, end, tag, score}` each, with the characters of the text."""
        _, spans = text_and_spans(example)
        rows = zip(example["tokens"], spans, prediction["tags"], prediction["scores"], strict=True)
        return {
            "words": [
                {"word": word, "start": start, "end": end, "tag": tag, "score": score}
                for word, (start, end), tag, score in rows
            ]
        }

    @classmethod
    def majority(cls, train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction]:
        """Every word gets the label that it has most often in the training set, an unseen word the commonest of all."""
        by_word = commonest_labels(train)
        counts = Counter(tag for example in train for tag in example["tags"])
        of_all = min(counts, key=lambda tag: (-counts[tag], tag))
        return [{"tags": [by_word.get(word, of_all) for word in example["tokens"]]} for example in examples]

    def bag_of_words(self, train: Sequence[Example]) -> BagOfWords:
        from mlm_pretrain.tasks.scores.bag_of_tags import TagBag

        return TagBag(train)

    @classmethod
    def metrics(cls, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """`accuracy` and `macro_f1` over all words."""
        from mlm_pretrain.tasks.scores.metrics import ClassificationMetric

        return ClassificationMetric().compute(
            predictions=[tag for prediction in predictions for tag in prediction["tags"]],
            references=[tag for example in examples for tag in example["tags"]],
        )

    def errors(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """A record a word: `place`, its `number` in the sentence (from 0), `text`, `tag`, `predicted`, `context`."""
        found = []
        for example, prediction in zip(examples, predictions, strict=True):
            text, spans = text_and_spans(example)
            pairs = zip(example["tags"], prediction["tags"], strict=True)
            for number, (tag, predicted) in enumerate(pairs):
                if tag != predicted:
                    words = {"place": example["place"], "number": number, "text": example["tokens"][number]}
                    around = context(text, *spans[number])
                    found.append({**words, "tag": tag, "predicted": predicted, "context": around})
        return found
