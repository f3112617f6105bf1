"""Extractive question answering: the span of a context that answers a question, or none; long contexts in windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, PretrainedConfig, PreTrainedTokenizerBase

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.console.telemetry import warn
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.new import quiet
from mlm_pretrain.runtime.loss import IGNORE_INDEX, Batch
from mlm_pretrain.tasks.adapter import (
    MODEL_INPUTS,
    TASKS,
    Example,
    Feature,
    Prediction,
    TaskAdapter,
    cross_entropy_sum,
    probabilities,
)
from mlm_pretrain.tasks.labels.columns import column, text_column
from mlm_pretrain.tasks.labels.squad import exact_match, placed, read_answers, squad_scores

CHUNK = 1000
"""Examples that are tokenised together."""
N_BEST = 20
"""Spans among which the score of the best is its share, as in transformers' `run_qa.py`."""
MARKS = ("answers_may_be_missing", "max_answer_length")
"""What a trained model's config notes, besides the labels."""


@TASKS.register("question_answering")
class QuestionAnswering(TaskAdapter):
    """A `question`, its `context`, and `answers`, a list of `{"text", "start"}`; an empty one is "no answer there".

    `start` counts the characters of the context. A row is the question, then a window of the context; windows of a
    long context overlap by `stride` tokens (by default a quarter of `max_length`), and a question of more than half
    of `max_length` is cut. As in transformers' `run_qa.py`, the model learns the first token and the last of the first
    answer, and in windows without the whole of it the [CLS] token for both (Devlin et al. 2019).

    Features have `first`, the position of the window's first token of the context, and `offsets`, int32 [tokens of
    the context, 2]: the characters of each, the first and the one after the last. `labels` are the positions of start
    and end, in that order.
    """

    metric: ClassVar[str] = "f1"
    auto_class: ClassVar[Any] = AutoModelForQuestionAnswering
    architecture: ClassVar[str] = "ForQuestionAnswering"
    label_key: ClassVar[str] = "answers_column"

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
            UserError: the tokenizer doesn't tell the characters of its tokens, or windows are too short.
        """
        if not tokenizer.is_fast:
            raise UserError(
                f"{tokenizer.name_or_path}: question answering needs a fast tokenizer (tokenizer.json), which tells "
                "character offsets"
            )
        super().__init__(labels, tokenizer, max_length, stride or max_length // 4, task)
        if max_length - max_length // 2 - tokenizer.num_special_tokens_to_add(pair=True) <= self.stride:
            raise UserError(
                f"stride: {self.stride} leaves no room for new tokens in windows of max_length {max_length}, of which "
                "the question may fill half"
            )
        self.answers_may_be_missing = False
        """Whether training had questions without an answer; else there is always one."""
        self.max_answer_length: int = (task or TaskConfig(task="question_answering", name="qa")).max_answer_length

    # -- data ----------------------------------------------------------------------------------------------------

    @classmethod
    def make_example(cls, row: dict[str, Any], task: TaskConfig, place: str, labelled: bool = True) -> Example:
        """As the rows of SQuAD: `answers` is `{"text": [...], "answer_start": [...]}`, or a list of `{"text",
        "answer_start"}`; in csv either as JSON. An answer that stands elsewhere is `moved` where it stands once."""
        example: Example = {
            "question": text_column(row, "question_column", task, place),
            "context": text_column(row, "context_column", task, place),
            "place": place,
        }
        if labelled:
            name, given = task.answers_column, column(row, "answers_column", task, place)
            found = [
                placed(text, start, example["context"], name, place) for text, start in read_answers(given, name, place)
            ]
            example["answers"] = [answer for answer, _ in found]
            if any(moved for _, moved in found):
                example["moved"] = True
        return example

    @classmethod
    def review(cls, examples: Sequence[Example]) -> None:
        moved = [example["place"] for example in examples if example.pop("moved", False)]
        if moved:
            first = f"{moved[0]}: the answer isn't at its answer_start, and is taken from where it is"
            warn(f"{first}; the same in {len(moved):,} of the rows")

    @classmethod
    def text_of(cls, example: Example) -> str:
        return f"{example['question']}\n{example['context']}"

    @classmethod
    def group_of(cls, example: Example) -> str:
        return str(example["context"])  # a context that was trained on is half an answer

    @classmethod
    def label_names(cls, train: Sequence[Example], task: TaskConfig) -> list[str]:
        """The head's two outputs a token."""
        if not any(example["answers"] for example in train):
            raise UserError(f"{train[0]['place']}: no training question has an answer; there is nothing to learn")
        return ["start", "end"]

    def learn(self, train: Sequence[Example]) -> None:
        self.answers_may_be_missing = any(not example["answers"] for example in train)

    # -- the model's side ----------------------------------------------------------------------------------------

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        features = []
        for begin in range(0, len(examples), CHUNK):
            chunk = examples[begin : begin + CHUNK]
            encoded = self.tokenizer(
                self._short_questions([example["question"] for example in chunk]),
                [example["context"] for example in chunk],
                truncation="only_second",
                max_length=self.max_length,
                stride=self.stride,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )
            numbers = encoded["overflow_to_sample_mapping"]
            for row, number in enumerate(numbers):
                inputs = {name: encoded[name][row] for name in MODEL_INPUTS if name in encoded}
                places = [place for place, part in enumerate(encoded.sequence_ids(row)) if part == 1]
                first, offsets = places[0] if places else 0, encoded["offset_mapping"][row]
                feature = {**inputs, "example": begin + number, "first": first}
                feature["offsets"] = np.array([offsets[place] for place in places], dtype=np.int32).reshape(-1, 2)
                is_first = row == 0 or numbers[row - 1] != number
                is_last = row == len(numbers) - 1 or numbers[row + 1] != number
                feature["labels"] = self._labels(feature, chunk[number], is_first, is_last)
                features.append(feature)
        # Truncation is a setting of the tokenizer itself, and would be saved with it.
        self.tokenizer.backend_tokenizer.no_truncation()
        return features

    def loss(self, model: torch.nn.Module, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """As for every head: a row has two labels, so the mean is that of the start's and the end's cross-entropy."""
        return cross_entropy_sum(self.logits(model, batch).transpose(1, 2), batch["labels"])

    def logits(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        """float32 [rows, tokens, 2], of start and end; -inf at padding, which is no candidate."""
        output = model(**{name: tensor for name, tensor in batch.items() if name in MODEL_INPUTS})
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1).float()
        return logits.masked_fill(batch["attention_mask"].unsqueeze(-1) == 0, -torch.inf)

    def mark(self, model: torch.nn.Module) -> None:
        super().mark(model)
        for name in MARKS:
            setattr(model.config, name, getattr(self, name))

    def take(self, config: PretrainedConfig) -> None:
        for name in MARKS:
            setattr(self, name, getattr(config, name, getattr(self, name)))

    # -- after the model -----------------------------------------------------------------------------------------

    def predictions(
        self, examples: Sequence[Example], features: Sequence[Feature], logits: Sequence[np.ndarray]
    ) -> list[Prediction]:
        """`answer`, its `start` and `end` in the context ("", 0 and 0 for none) and its `score`.

        The score is the softmax probability among the `N_BEST` best spans over all windows, and among "no answer",
        the [CLS] token in the window where it is least likely, if training had questions without one.
        """
        spans: list[dict[tuple[int, int], float]] = [{} for _ in examples]
        missing = [np.inf for _ in examples]
        for feature, row in zip(features, logits, strict=True):
            number = feature["example"]
            missing[number] = min(missing[number], float(row[self._cls(feature)].sum()))
            for span, score in self._spans(feature, row, examples[number]["context"]):
                spans[number][span] = max(score, spans[number].get(span, score))
        return [
            self._best(example["context"], found, none)
            for example, found, none in zip(examples, spans, missing, strict=True)
        ]

    @classmethod
    def majority(cls, train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction]:
        """No answer to every question, as nothing can be said without the context."""
        return [_prediction("", 0, 0, 1.0) for _ in examples]

    @classmethod
    def metrics(cls, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """`f1` and `exact_match` of SQuAD, between 0 and 1."""
        return squad_scores([prediction["answer"] for prediction in predictions], list(map(_texts, examples)))

    def errors(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """The questions whose answer is none of the right ones."""
        return [
            {
                "place": example["place"],
                "question": example["question"],
                "answers": _texts(example),
                "predicted": prediction["answer"],
                "score": prediction["score"],
            }
            for example, prediction in zip(examples, predictions, strict=True)
            if not exact_match(prediction["answer"], _texts(example))
        ]

    # -- parts ---------------------------------------------------------------------------------------------------

    def _short_questions(self, questions: Sequence[str]) -> list[str]:
        """The questions, cut to half a window."""
        limit = self.max_length // 2
        result = []
        with quiet():  # its warning about long texts: they are cut here
            encoded = self.tokenizer(list(questions), add_special_tokens=False, return_offsets_mapping=True)
            for question, offsets in zip(questions, encoded["offset_mapping"], strict=True):
                kept = limit
                # What is cut off may have been part of a longer token, so count again.
                while (
                    len(offsets) > limit and len(self.tokenizer(question, add_special_tokens=False).input_ids) > limit
                ):
                    question, kept = question[: offsets[kept - 1][1] if kept else 0], kept - 1
                result.append(question)
        return result

    def _cls(self, feature: Feature) -> int:
        ids = feature["input_ids"]
        return ids.index(self.tokenizer.cls_token_id) if self.tokenizer.cls_token_id in ids else 0

    def _labels(self, feature: Feature, example: Example, is_first: bool, is_last: bool) -> list[int]:
        """The positions of the first answer's first and last token, of [CLS] twice where it isn't in the window."""
        if "answers" not in example:
            return [IGNORE_INDEX, IGNORE_INDEX]
        starts, ends = feature["offsets"].T
        if example["answers"] and len(starts):
            answer = example["answers"][0]
            start, end = answer["start"], answer["start"] + len(answer["text"])
            inside = np.flatnonzero((starts < end) & (ends > start))
            whole = (is_first or starts[0] <= start) and (is_last or ends[-1] >= end)
            if len(inside) and whole:
                return [feature["first"] + int(inside[0]), feature["first"] + int(inside[-1])]
        return [self._cls(feature)] * 2

    def _spans(self, feature: Feature, logits: np.ndarray, context: str) -> list[tuple[tuple[int, int], float]]:
        """The best spans of a window, characters of the context without whitespace around, and their scores."""
        offsets, first = feature["offsets"], feature["first"]
        starts, ends = logits[first : first + len(offsets)].T
        longest = min(self.max_answer_length, len(offsets))
        if not longest:
            return []
        # [start, length - 1]: the ends beyond the window are -inf.
        padded = np.concatenate([ends, np.full(longest - 1, -np.inf, dtype=ends.dtype)])
        sums = starts[:, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)
        best = np.argsort(-sums, axis=None, kind="stable")[:N_BEST]
        found = []
        for start, length in zip(*np.unravel_index(best, sums.shape), strict=True):
            begin, end = int(offsets[start, 0]), int(offsets[min(start + length, len(offsets) - 1), 1])
            text = context[begin:end]
            begin += len(text) - len(text.lstrip())
            if text.strip() and np.isfinite(sums[start, length]):
                found.append(((begin, begin + len(text.strip())), float(sums[start, length])))
        return found

    def _best(self, context: str, spans: dict[tuple[int, int], float], missing: float) -> Prediction:
        ranked = sorted(spans.items(), key=lambda item: (-item[1], item[0]))[:N_BEST]
        if self.answers_may_be_missing:
            ranked.append(((0, 0), missing))
        if not ranked:
            return _prediction("", 0, 0, 0.0)
        chances = probabilities(np.array([score for _, score in ranked]))
        best = int(chances.argmax())
        (start, end), _ = ranked[best]
        return _prediction(context[start:end], start, end, float(chances[best]))


def _prediction(answer: str, start: int, end: int, score: float) -> Prediction:
    return {"answer": answer, "start": start, "end": end, "score": score}


def _texts(example: Example) -> list[str]:
    return [answer["text"] for answer in example["answers"]]
