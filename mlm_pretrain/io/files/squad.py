"""SQuAD's nested file, as SQuAD, MLQA, XQuAD, GermanQuAD and FQuAD are published: titles → paragraphs → questions.

Source: https://rajpurkar.github.io/SQuAD-explorer/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def is_nested(document: dict[str, Any]) -> bool:
    """Whether an object is such a file."""
    data = document.get("data")
    return isinstance(data, list) and any(isinstance(item, dict) and "paragraphs" in item for item in data)


def rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row a question, as `load_dataset("squad")` has it: `id`, `title`, `context`, `question`, `answers`.

    What isn't as it should be stays in the row, for whoever reads the columns to find.
    """
    for article in _dicts(document["data"]):
        for paragraph in _dicts(article.get("paragraphs")):
            for question in _dicts(paragraph.get("qas")):
                given = _dicts(question.get("answers"))
                impossible = question.get("is_impossible") is True
                texts = [] if impossible else [answer.get("text") for answer in given]
                starts = [] if impossible else [answer.get("answer_start") for answer in given]
                yield {
                    "id": question.get("id"),
                    "title": article.get("title"),
                    "context": paragraph.get("context"),
                    "question": question.get("question"),
                    "answers": {"text": texts, "answer_start": starts},
                }


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
