"""What a task's config leaves open: the rate by the encoder's width, the epochs by the number of examples."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import BertConfig, DistilBertConfig, ModernBertConfig, PretrainedConfig

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.tasks.fit.recipe import FEWEST_STEPS, settled


def task(**keys: Any) -> TaskConfig:
    return TaskConfig(task="classification", name="topic", **keys)


def chosen(examples: int = 1000, config: PretrainedConfig | None = None, **keys: Any) -> tuple[float, float | None]:
    recipe = settled(task(**keys), config or BertConfig(hidden_size=256), examples)
    return recipe.learning_rate, recipe.num_train_epochs


def test_what_a_config_names_is_kept() -> None:
    assert chosen(learning_rate=7e-4, num_train_epochs=2) == (7e-4, 2)


@pytest.mark.parametrize("encoder", ["lora", "frozen"])
def test_the_width_says_nothing_of_what_is_not_trained_whole(encoder: str) -> None:
    rates = {chosen(encoder=encoder, config=BertConfig(hidden_size=width))[0] for width in (64, 768)}
    assert len(rates) == 1


def test_a_frozen_encoder_has_its_own_recipe_also_if_the_config_says_null() -> None:
    assert chosen(encoder="frozen", learning_rate=None, num_train_epochs=None) == (1e-2, 40)


def test_wider_encoders_get_lower_rates() -> None:
    widths = (256, 384, 512, 768, 1024)
    rates = {width: chosen(config=BertConfig(hidden_size=width, num_attention_heads=1))[0] for width in widths}
    assert rates[256] == rates[384] == 3e-4
    assert list(rates.values()) == sorted(rates.values(), reverse=True)
    # What BERT's and RoBERTa's authors took.
    assert 2e-5 <= rates[768] <= 5e-5 and 1e-5 <= rates[1024] <= 3e-5


def test_the_width_is_found_under_the_name_that_an_architecture_gives_it() -> None:
    assert chosen(config=DistilBertConfig(dim=512)) == chosen(config=BertConfig(hidden_size=512, num_attention_heads=1))


def test_small_training_sets_are_seen_more_often_than_large_ones() -> None:
    size = task().per_device_train_batch_size
    epochs = {examples: chosen(examples)[1] for examples in (20, 80, 1000, 2000, 5000, 10**6)}
    assert list(epochs.values()) == sorted(epochs.values(), reverse=True)  # type: ignore[type-var]
    assert epochs[1000] * (1000 / size) >= FEWEST_STEPS  # type: ignore[operator]
    assert epochs[20] == epochs[80] == 10 and epochs[10**6] == 3


def test_a_small_encoder_reads_the_first_token_if_there_are_examples_enough() -> None:
    def pooling(
        examples: int, width: int = 256, kind: str | None = "regression", own: str = "mean", **keys: Any
    ) -> str | None:
        config = ModernBertConfig(hidden_size=width, num_attention_heads=4, problem_type=kind, classifier_pooling=own)
        return settled(task(**keys), config, examples).config.get("classifier_pooling")

    assert (pooling(80, own="cls"), pooling(1000)) == ("mean", "cls")
    assert pooling(80) is None and pooling(1000, own="cls") is None  # nothing to change
    assert pooling(1000, config={"classifier_pooling": "mean"}) == "mean"
    # Left as the checkpoint has it: wide encoders, heads of words, what is not trained whole, what has no choice.
    assert pooling(1000, width=512) is None
    assert pooling(1000, kind=None) is None
    assert pooling(1000, encoder="lora") is None
    assert settled(task(), BertConfig(hidden_size=256, problem_type="regression"), 1000).config == {}
