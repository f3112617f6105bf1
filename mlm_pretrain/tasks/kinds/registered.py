"""All adapters: importing one's module registers it."""

from mlm_pretrain.tasks.adapter import TASKS
from mlm_pretrain.tasks.kinds import classification, multi_label, ner, question_answering, regression, tagging

__all__ = ["TASKS", "classification", "multi_label", "ner", "question_answering", "regression", "tagging"]
