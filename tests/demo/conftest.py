"""A run with an encoder and a model of every kind of task, all with random weights and two layers."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from mlm_pretrain.config_file import make_config
from mlm_pretrain.run import RunDirectory
from tests.tasks.conftest import make_tokenizer, tiny_masked_lm

HOSTILE_LABEL = '<img src=x onerror="window.hurt=1">'
CLASSES = ["good", "bad", HOSTILE_LABEL]
HEADS = {
    "classes": (AutoModelForSequenceClassification, CLASSES, "single_label_classification"),
    "topics": (AutoModelForSequenceClassification, ["law", "sport"], "multi_label_classification"),
    "grade": (AutoModelForSequenceClassification, ["score"], "regression"),
    "entities": (AutoModelForTokenClassification, ["O", "B-LOC", "I-LOC", "B-PER"], None),
    "pos": (AutoModelForTokenClassification, ["NOUN", "VERB"], None),
    "answers": (AutoModelForQuestionAnswering, ["start", "end"], None),
}
TASKS = {
    "classes": "classification",
    "topics": "multi_label_classification",
    "grade": "regression",
    "entities": "ner",
    "pos": "tagging",
    "answers": "question_answering",
}


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run = RunDirectory(tmp_path_factory.mktemp("demo") / "tiny")
    tokenizer = make_tokenizer("bpe")
    tiny_masked_lm("modernbert", len(tokenizer)).save_pretrained(run.model)
    tokenizer.save_pretrained(run.model)
    for name, (auto_class, labels, problem_type) in HEADS.items():
        torch.manual_seed(len(name))
        names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        model = auto_class.from_pretrained(run.model, problem_type=problem_type, **names)
        with torch.no_grad():  # the heads' first weights are so small that every answer would be the same
            for weight in (parameter for key, parameter in model.named_parameters() if "classifier" in key):
                weight.normal_(std=0.5)
        if name == "classes":
            model.config.calibration_temperature = 1.7
        if problem_type:
            model.config.trained_on_pairs = name == "grade"
        model.save_pretrained(run.task(name))
        tokenizer.save_pretrained(run.task(name))
    tasks = [{"task": task, "name": name, "train": "train.jsonl"} for name, task in TASKS.items()]
    config = {
        "run": {"name": "tiny", "output_dir": str(run.root.parent)},
        "text": {"sources": [{"source": "files", "path": "text.txt"}]},
        "evaluation": {"fill_mask": ["The river [MASK] flows through [MASK]."]},
        "tasks": tasks,
    }
    run.write_config(make_config(config))
    return run
