"""All adapters: importing one's module registers it."""

from mlm_pretrain.tasks import classification, ner
from mlm_pretrain.tasks.adapter import TASKS

__all__ = ["TASKS", "classification", "ner"]
