"""All adapters: importing one's module registers it."""

from mlm_pretrain.tasks import classification, multi_label, ner, question_answering, regression, tagging
from mlm_pretrain.tasks.adapter import TASKS

__all__ = ["TASKS", "classification", "multi_label", "ner", "question_answering", "regression", "tagging"]
