"""The collator in the place of transformers' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, Trainer, TrainingArguments

from mlm_pretrain.objectives.collator import MaskingCollator

Features = list[dict[str, list[int]]]


@pytest.fixture
def features(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> Features:
    return [{"input_ids": tokenizer(text, truncation=True, max_length=40)["input_ids"]} for text in documents[:200]]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_batches_are_padded_and_masked(tokenizer: PreTrainedTokenizerFast, features: Features) -> None:
    short: Features = [{"input_ids": [2, 7, 3]}, {"input_ids": [2, 9, 10, 11, 12, 3]}]
    batch = MaskingCollator(tokenizer, pad_to_multiple_of=8, mask_count="exact", mlm_probability=0.3)(short)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert all(tensor.shape == (2, 8) and tensor.dtype == torch.int64 for tensor in batch.values())
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]]
    assert (batch["labels"] != -100).sum(dim=1).tolist() == [0, 1]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()

    many = MaskingCollator(tokenizer)(features)
    chosen = many["labels"] != -100
    originals = torch.nn.utils.rnn.pad_sequence([torch.tensor(f["input_ids"]) for f in features], batch_first=True)
    assert torch.equal(torch.where(chosen, many["labels"], many["input_ids"]), originals)
    assert chosen.sum() / (originals > 4).sum() == pytest.approx(0.15, abs=0.02)


def test_masks_of_the_caller_count(tokenizer: PreTrainedTokenizerFast) -> None:
    feature = {
        "input_ids": torch.arange(10, 20),
        "attention_mask": [1] * 8 + [0] * 2,
        "special_tokens_mask": [1] * 5 + [0] * 5,
    }
    batch = MaskingCollator(tokenizer, mlm_probability=1.0)([feature])
    assert (batch["labels"][0] != -100).tolist() == [False] * 5 + [True] * 3 + [False] * 2
    assert batch["attention_mask"].tolist() == [[1] * 8 + [0] * 2]


def test_padding_on_the_left(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "padding_side", "left")
    batch = MaskingCollator(tokenizer, mlm_probability=1.0)([{"input_ids": [2, 9, 3]}, {"input_ids": [2, 9, 9, 9, 3]}])
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert (batch["labels"] == 9).tolist() == [[False, False, False, True, False], [False, True, True, True, False]]


@pytest.mark.parametrize("masking", ["token", "whole_word", "span"])
def test_masks_follow_torchs_seed_or_ones_own(
    masking: str, tokenizer: PreTrainedTokenizerFast, features: Features
) -> None:
    def twice(torch_seed: int, **options: object) -> list[dict[str, Tensor]]:
        torch.manual_seed(torch_seed)
        collator = MaskingCollator(tokenizer, masking=masking, **options)
        return [collator(features), collator(features)]

    for first, second in (twice(1), twice(1, seed=5)):
        assert not same(first, second)
    assert all(map(same, twice(1), twice(1)))
    assert not any(map(same, twice(1), twice(2)))
    assert all(map(same, twice(1, seed=5), twice(2, seed=5)))
    assert not any(map(same, twice(1, seed=5), twice(1, seed=6)))


@pytest.mark.parametrize("seed", [None, 3])
def test_dataloader_workers_mask_differently_and_again_the_same(
    seed: int | None, tokenizer: PreTrainedTokenizerFast, features: Features
) -> None:
    rows = [features[0]] * 64

    def batches() -> list[dict[str, Tensor]]:
        torch.manual_seed(0)
        collator = MaskingCollator(tokenizer, seed=seed)
        return list(DataLoader(rows, batch_size=16, collate_fn=collator, num_workers=2))

    once = batches()
    assert all(map(same, once, batches()))
    assert not any(same(once[i], once[j]) for i in range(4) for j in range(i))


def test_values_out_of_range_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="mlm_probability"):
        MaskingCollator(tokenizer, mlm_probability=1.5)
    with pytest.raises(ValueError, match="exact goes with masking: token only"):
        MaskingCollator(tokenizer, masking="span", mask_count="exact")


def test_inside_a_trainer(tokenizer: PreTrainedTokenizerFast, features: Features, tmp_path: Path) -> None:
    def losses() -> list[float]:
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        )
        trainer = Trainer(
            model=BertForMaskedLM(config),
            args=TrainingArguments(
                str(tmp_path), max_steps=8, per_device_train_batch_size=16, learning_rate=1e-2, logging_steps=1,
                report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True, seed=1,
            ),
            train_dataset=features,
            data_collator=MaskingCollator(tokenizer, masking="whole_word"),
        )  # fmt: skip
        trainer.train()
        return [log["loss"] for log in trainer.state.log_history if "loss" in log]

    once = losses()
    assert len(once) == 8
    assert sum(once[-3:]) < sum(once[:3]) - 1
    assert once == losses()
