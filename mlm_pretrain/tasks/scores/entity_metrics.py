"""Scores of named entities. Import it only where a score is computed, as `metrics.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from mlm_pretrain.tasks.labels.schemes import Entity, entities_of
from mlm_pretrain.tasks.scores.metrics import InMemoryMetric


class EntityMetric(InMemoryMetric):
    """Entity-level `precision`, `recall` and `f1` (over all entities, and `by_type`): those of seqeval, which takes
    several times as long.

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
        gold, found = [entities_of(tags) for tags in references], [entities_of(tags) for tags in predictions]
        right = Counter(name for entities in gold for name, _, _ in entities)
        predicted = Counter(name for entities in found for name, _, _ in entities)
        pairs = list(zip(gold, found, strict=True))
        hits = Counter(name for ours, theirs in pairs for name, _, _ in set(ours) & set(theirs))
        by_type = {
            name: scores_of(hits[name], right[name], predicted[name]) | {"support": right[name]}
            for name in sorted(right | predicted)
        }
        totals = right.total(), predicted.total()
        relaxed = sum(len(overlaps(ours, theirs)) for ours, theirs in pairs)
        return scores_of(hits.total(), *totals) | {"by_type": by_type, "relaxed": scores_of(relaxed, *totals)}


def scores_of(hits: int, right: int, predicted: int) -> dict[str, Any]:
    """`f1`, `precision` and `recall`; 0 if there is nothing to divide by.

    Args:
        right: entities of the reference.
        predicted: entities of the prediction.
    """
    precision, recall = hits / max(predicted, 1), hits / max(right, 1)
    return {"f1": 2 * precision * recall / ((precision + recall) or 1.0), "precision": precision, "recall": recall}


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
