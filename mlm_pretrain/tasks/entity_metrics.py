"""Scores of named entities. Import it only where a score is computed, as `metrics.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
from seqeval.metrics import classification_report

from mlm_pretrain.tasks.metrics import InMemoryMetric
from mlm_pretrain.tasks.schemes import Entity, entities_of


class EntityMetric(InMemoryMetric):
    """Entity-level `precision`, `recall` and `f1` (over all entities, and `by_type`), as seqeval computes them.

    An entity counts where its type, its first and its last word are right. Tags are read as conlleval reads them
    (seqeval's default mode): an I- that continues nothing starts an entity. `relaxed` has the same three figures where
    the type and any word of the entity suffice ("type" of SemEval-2013 task 9), each entity counted once.
    """

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description="Precision, recall and F1 of named entities.",
            citation="",
            inputs_description="predictions, references: lists of lists of IOB2 tags",
            features=datasets.Features({"predictions": tags, "references": tags}),
        )

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, Any]:
        predictions, references = [list(tags) for tags in predictions], [list(tags) for tags in references]
        if all(tag == "O" for tags in (*predictions, *references) for tag in tags):
            nothing = {"f1": 0.0, "precision": 0.0, "recall": 0.0}
            return nothing | {"by_type": {}, "relaxed": dict(nothing)}
        report = classification_report(references, predictions, output_dict=True, zero_division=0)
        figures = {
            name: {
                "f1": float(row["f1-score"]),
                "precision": float(row["precision"]),
                "recall": float(row["recall"]),
                "support": int(row["support"]),
            }
            for name, row in report.items()
        }
        overall = figures.pop("micro avg")
        by_type = {name: row for name, row in figures.items() if name not in ("macro avg", "weighted avg")}
        strict = {name: overall[name] for name in ("f1", "precision", "recall")}
        return strict | {"by_type": by_type, "relaxed": relaxed_scores(references, predictions)}


def relaxed_scores(references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, float]:
    """`f1`, `precision` and `recall` where an entity counts if one of its type overlaps it; 0 if there is none."""
    hits = right = predicted = 0
    for reference, prediction in zip(references, predictions, strict=True):
        gold, found = entities_of(reference), entities_of(prediction)
        hits += len(overlaps(gold, found))
        right += len(gold)
        predicted += len(found)
    return {
        "f1": 2 * hits / max(right + predicted, 1),
        "precision": hits / max(predicted, 1),
        "recall": hits / max(right, 1),
    }


def overlaps(gold: Sequence[Entity], found: Sequence[Entity]) -> list[tuple[Entity, Entity]]:
    """Pairs of one type that share a word, as many as can be made with each entity in one pair at most.

    Both are in order and overlap nothing of their own, so that taking the first possible pair is the best choice.
    """
    pairs = []
    for name in sorted({entity[0] for entity in gold}):
        ours, theirs = ([entity for entity in each if entity[0] == name] for each in (gold, found))
        while ours and theirs:
            if ours[0][2] < theirs[0][1]:
                ours.pop(0)
            elif theirs[0][2] < ours[0][1]:
                theirs.pop(0)
            else:
                pairs.append((ours.pop(0), theirs.pop(0)))
    return pairs


def mistakes(reference: Sequence[str], prediction: Sequence[str]) -> list[tuple[str, Entity, Entity | None]]:
    """What is wrong with predicted tags, in the order of the words.

    Returns:
        (kind, entity, predicted): `wrong_type`, `wrong_span` (of the right type, overlapping) and `missed` with the
        entity of the reference; `invented` with the predicted one.
    """
    gold, found = entities_of(reference), entities_of(prediction)
    missed = [entity for entity in gold if entity not in found]
    invented = [entity for entity in found if entity not in gold]
    by_span = {entity[1:]: entity for entity in invented}
    pairs = [("wrong_type", entity, by_span[entity[1:]]) for entity in missed if entity[1:] in by_span]
    for _, ours, theirs in pairs:
        missed.remove(ours)
        invented.remove(theirs)
    pairs += [("wrong_span", *pair) for pair in overlaps(missed, invented)]
    taken = [entity for _, *pair in pairs for entity in pair]
    result: list[tuple[str, Entity, Entity | None]] = [
        *pairs,
        *(("missed", entity, None) for entity in missed if entity not in taken),
        *(("invented", entity, None) for entity in invented if entity not in taken),
    ]
    return sorted(result, key=lambda mistake: mistake[1][1:])
