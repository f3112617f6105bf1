"""Tiny checkpoints of several architectures, and such as nobody should open."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": {**SIZES, "type_vocab_size": 1},
    "modernbert": {**SIZES, "local_attention": 16},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 66},
    "electra": {**SIZES, "embedding_size": 32},
    "deberta-v2": SIZES,
}


def tiny_checkpoint(
    folder: Path, model_type: str, tokenizer: PreTrainedTokenizerFast, masked_lm: bool = True, **keys: Any
) -> PreTrainedModel:
    """A checkpoint with random weights and this tokenizer; without `masked_lm` it has no head."""
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    made = {"vocab_size": max(tokenizer.get_vocab().values()) + 1, **ids, **ARCHITECTURES[model_type], **keys}
    config = AutoConfig.for_model(model_type, **made)
    model: PreTrainedModel = (AutoModelForMaskedLM if masked_lm else AutoModel).from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def bring_code(folder: Path, mark: Path, model_type: str) -> None:
    """Give a BERT checkpoint code of its own that writes the file `mark` as soon as it is imported."""
    file = folder / "config.json"
    classes = {name: f"own_code.Own{kind}" for name, kind in (("AutoConfig", "Config"), ("AutoModel", "Model"))}
    classes |= {"AutoModelForMaskedLM": "own_code.OwnMaskedLM"}
    config = json.loads(file.read_text()) | {"model_type": model_type, "auto_map": classes}
    file.write_text(json.dumps(config))
    tokenizer = folder / "tokenizer_config.json"
    mapped = {"auto_map": {"AutoTokenizer": ["own_code.OwnTokenizer", None]}}
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()) | mapped))
    (folder / "own_code.py").write_text(
        "from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizer\n"
        f"open({str(mark)!r}, 'w').close()\n"
        f"class OwnConfig(BertConfig):\n    model_type = {model_type!r}\n"
        "class OwnModel(BertModel):\n    config_class = OwnConfig\n"
        "class OwnMaskedLM(BertForMaskedLM):\n    config_class = OwnConfig\n"
        "class OwnTokenizer(BertTokenizer):\n    pass\n"
    )


class Pickled:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


def pickle_that_writes(file: Path, mark: Path) -> None:
    torch.save({"encoder.weight": Pickled(mark)}, file)
