"""Contract 4: what is masked, how often, and with what; and that a row's masks are its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import ObjectiveConfig, Ramp, TokenizerConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.objectives.base import IGNORE, OBJECTIVES, Objective, Rows
from mlm_pretrain.objectives.mlm import MaskedLM
from mlm_pretrain.objectives.random import RowRandom
from mlm_pretrain.text.tokenizing.tokenizer import train_tokenizer, word_start_tables

LENGTH = 64
MASK = 4
ARRAYS = ("input_ids", "segment_ids", "position_ids", "source_ids")


@pytest.fixture(scope="module")
def kinds(documents: list[str], tokenizer: PreTrainedTokenizerFast) -> dict[str, PreTrainedTokenizerFast]:
    others = {
        name: train_tokenizer(TokenizerConfig(algorithm=name, vocab_size=600), documents)
        for name in ("wordpiece", "unigram")
    }
    return {"bpe": tokenizer, **others}


def packed(tokenizer: PreTrainedTokenizerFast, documents: list[str], count: int, step: int = 0) -> Rows:
    """Rows of several documents each, cut to fit, with some padding at the end."""
    encoded = itertools.cycle(tokenizer(documents, truncation=True, max_length=37)["input_ids"])
    arrays = {name: np.zeros((count, LENGTH), dtype=np.int64) for name in ARRAYS}
    arrays["source_ids"] -= 1
    for row in range(count):
        used, document = 0, 1
        for ids in encoded:
            if used + len(ids) > LENGTH:
                break
            place = slice(used, used + len(ids))
            arrays["input_ids"][row, place] = ids
            arrays["segment_ids"][row, place] = document
            arrays["position_ids"][row, place] = np.arange(len(ids))
            arrays["source_ids"][row, place] = document % 2
            used, document = used + len(ids), document + 1
    return Rows(**arrays, index=np.arange(count) + 1000, step=step)


def objective(tokenizer: PreTrainedTokenizerFast, **settings: object) -> Objective:
    config = ObjectiveConfig.model_validate(settings)
    return OBJECTIVES[config.name](config, tokenizer, LENGTH)


MODES = [{"masking": "token"}, {"masking": "whole_word"}, {"masking": "span"}, {"mask_count": "exact"}]


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("algorithm", ["bpe", "wordpiece", "unigram"])
@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_rates_hold_and_nothing_special_is_touched(
    algorithm: str, mode: dict[str, str], rate: float, kinds: dict[str, PreTrainedTokenizerFast], documents: list[str]
) -> None:
    tokenizer = kinds[algorithm]
    rows = packed(tokenizer, documents, 1500)
    batch = objective(tokenizer, mlm_probability=rate, **mode).corrupt(rows, RowRandom(3))
    chosen = batch["labels"] != IGNORE
    ordinary = (rows.segment_ids > 0) & ~np.isin(rows.input_ids, tokenizer.all_special_ids)

    assert not (chosen & ~ordinary).any()
    assert (batch["labels"][chosen] == rows.input_ids[chosen]).all()
    assert (batch["input_ids"][~chosen] == rows.input_ids[~chosen]).all()
    assert {batch[name].dtype for name in ("input_ids", "labels")} == {np.dtype(np.int64)}
    for name in ("segment_ids", "position_ids", "source_ids"):
        assert (batch[name] == getattr(rows, name)).all()

    if mode.get("masking") in ("whole_word", "span"):  # within two words or spans, many tokens long as some are
        off = np.abs(chosen.sum(axis=1) - rate * ordinary.sum(axis=1))
        usual, most = (3, 12) if mode["masking"] == "whole_word" else (8, 40)
        assert off.mean() < usual and np.quantile(off, 0.99) < most, (off.mean(), np.quantile(off, 0.99))

    # ⌊rate × tokens⌋ counts [CLS] and [SEP] among the tokens, and rounds down.
    assert chosen.sum() / ordinary.sum() == pytest.approx(rate, rel=0.15 if "mask_count" in mode else 0.06)
    hidden, labels = batch["input_ids"][chosen], batch["labels"][chosen]
    # Spans share their fate: fewer draws.
    assert (hidden == MASK).mean() == pytest.approx(0.8, abs=0.06 if mode.get("masking") == "span" else 0.02)
    assert (hidden == labels).mean() == pytest.approx(0.1, abs=0.045 if mode.get("masking") == "span" else 0.015)
    random = hidden[(hidden != MASK) & (hidden != labels)]
    assert random.min() >= 5 and random.max() < len(tokenizer)
    assert len(np.unique(random)) > 0.55 * (len(tokenizer) - 5)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_token_has_the_same_chance(
    mode: dict[str, str], tokenizer: PreTrainedTokenizerFast, documents: list[str]
) -> None:
    rows = packed(tokenizer, documents, 8)
    masker, ordinary = objective(tokenizer, **mode), (rows.segment_ids > 0) & (rows.input_ids > 4)
    often = sum((masker.corrupt(rows, RowRandom(seed))["labels"] != IGNORE).astype(int) for seed in range(1500))
    assert abs(often[ordinary] / 1500 - 0.15).max() < (0.06 if "mask_count" in mode else 0.05)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_rows_masks_do_not_depend_on_its_batch(
    mode: dict[str, str], tokenizer: PreTrainedTokenizerFast, documents: list[str]
) -> None:
    rows = packed(tokenizer, documents, 40)
    masker = objective(tokenizer, **mode)
    whole = masker.corrupt(rows, RowRandom(7))

    def part(places: np.ndarray) -> dict[str, np.ndarray]:
        taken = {name: getattr(rows, name)[places] for name in (*ARRAYS, "index")}
        return masker.corrupt(Rows(**taken, step=0), RowRandom(7))

    for places in [*np.arange(40)[:, None], np.arange(40)[::-1], np.arange(11, 29)]:
        for name, array in part(places).items():
            assert (array == whole[name][places]).all(), name

    later = masker.corrupt(
        Rows(**{name: getattr(rows, name) for name in ARRAYS}, index=rows.index + 40, step=0), RowRandom(7)
    )
    other = masker.corrupt(rows, RowRandom(8))
    for batch in (later, other):
        differs = (batch["labels"] != whole["labels"]).any(axis=1)
        assert differs.mean() > 0.8


@given(seed=st.integers(0, 2**32 - 1), first=st.integers(0, 2**40), cut=st.integers(0, 20), n=st.integers(1, 70))
def test_draws_belong_to_rows(seed: int, first: int, cut: int, n: int) -> None:
    rows = first + np.arange(20)
    draws = RowRandom(seed).uniform(rows, n)
    assert draws.shape == (20, n) and draws.dtype == np.float32
    assert draws.min() >= 0 and draws.max() < 1
    parts = [RowRandom(seed).uniform(part, n) for part in (rows[:cut], rows[cut:])]
    assert (np.concatenate(parts) == draws).all()
    assert len({row.tobytes() for row in RowRandom(seed).uniform(rows, 8)}) == 20


def test_draws_are_uniform_and_those_of_numpys_philox() -> None:
    draws = RowRandom(5).uniform(np.arange(400), 1000)
    assert draws.mean() == pytest.approx(0.5, abs=0.003)
    assert abs(np.corrcoef(draws[:30])[np.triu_indices(30, 1)]).max() < 0.15
    plain = np.random.Generator(np.random.Philox(key=np.array([5, 123], dtype=np.uint64)))
    assert (plain.random(1000, dtype=np.float32) == draws[123]).all()


# -- whole words and spans ----------------------------------------------------------------------------------------


def runs(chosen: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(row, start, end) of each run of True."""
    for row, line in enumerate(chosen):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
        for start, end in edges.reshape(-1, 2):
            yield row, int(start), int(end)


@pytest.mark.parametrize("masking", ["whole_word", "span"])
@pytest.mark.parametrize("algorithm", ["bpe", "wordpiece", "unigram"])
def test_no_word_is_masked_in_part(
    algorithm: str, masking: str, kinds: dict[str, PreTrainedTokenizerFast], documents: list[str]
) -> None:
    tokenizer = kinds[algorithm]
    rows = packed(tokenizer, documents, 300)
    chosen = objective(tokenizer, masking=masking).corrupt(rows, RowRandom(1))["labels"] != IGNORE
    starts = word_start_tables(tokenizer).word_starts(rows.input_ids, rows.segment_ids)
    same_word = ~starts[:, 1:] & (rows.segment_ids[:, 1:] > 0)
    assert same_word.mean() > 0.1  # words of several tokens are there
    assert (chosen[:, 1:] == chosen[:, :-1])[same_word].all()


def test_span_lengths_are_geometric_in_words(tokenizer: PreTrainedTokenizerFast) -> None:
    # One word a token, one document a row, few spans chosen: hardly any two touch.
    word = tokenizer.convert_tokens_to_ids("Ġthe")
    ids = np.full((3000, LENGTH), word, dtype=np.int64)
    rows = Rows(ids, np.ones_like(ids), ids, ids, index=np.arange(3000), step=0)
    settings = {"masking": "span", "mlm_probability": 0.03, "span_geometric_p": 0.2, "span_max_length": 10}
    chosen = objective(tokenizer, **settings).corrupt(rows, RowRandom(0))["labels"] != IGNORE
    lengths = np.array([end - start for _, start, end in runs(chosen) if start > 0 and end < LENGTH])
    weights = 0.2 * 0.8 ** np.arange(10) / (1 - 0.8**10)
    assert (lengths > 10).mean() < 0.05
    shares = np.bincount(lengths, minlength=11)[1:11] / len(lengths)
    # Spans that touch, and rows that end, move a little weight.
    assert abs(shares - weights).max() < 0.03
    assert lengths[lengths <= 10].mean() == pytest.approx(3.8, abs=0.35)


def test_spans_end_with_documents_and_share_their_fate(tokenizer: PreTrainedTokenizerFast) -> None:
    # Eight documents a row without special tokens, and spans that are nearly always longer than a row.
    ids = np.full((500, LENGTH), tokenizer.convert_tokens_to_ids("Ġthe"), dtype=np.int64)
    segments = np.broadcast_to(np.arange(LENGTH) // 8 + 1, ids.shape)
    rows = Rows(ids, segments, ids, ids, index=np.arange(500), step=0)
    settings = {"masking": "span", "mlm_probability": 0.5, "span_geometric_p": 1e-6, "span_max_length": 2000}
    batch = objective(tokenizer, **settings).corrupt(rows, RowRandom(0))
    chosen = (batch["labels"] != IGNORE).reshape(500, 8, 8)
    masked = (batch["input_ids"] == MASK).reshape(500, 8, 8)
    whole = chosen.all(axis=2)
    assert (whole | ~chosen.any(axis=2)).mean() > 0.98
    assert whole.sum(axis=1).mean() == pytest.approx(4, abs=0.1)
    assert np.unique(whole, axis=0).shape[0] > 40  # of 70 ways to choose 4 of 8
    assert (masked.all(axis=2) | ~masked.any(axis=2))[whole].mean() > 0.98
    assert masked.all(axis=2)[whole].mean() == pytest.approx(0.8, abs=0.04)


# -- exact counts and ramps ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    rate=st.floats(0.02, 1.0),
    tokens=st.lists(st.integers(0, LENGTH), min_size=1, max_size=5),
    special=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_exact_counts(
    rate: float, tokens: list[int], special: float, seed: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    draw = np.random.default_rng(seed)
    used = np.arange(LENGTH) < np.array(tokens)[:, None]
    ids = np.where(draw.random(used.shape) < special, 2, draw.integers(5, len(tokenizer), used.shape)) * used
    rows = Rows(ids, used.astype(np.int32), ids, ids, index=np.arange(len(tokens)), step=0)
    batch = objective(tokenizer, mlm_probability=rate, mask_count="exact").corrupt(rows, RowRandom(seed))
    slots = math.floor(rate * LENGTH + 1e-9)
    assert batch["label_positions"].shape == batch["label_ids"].shape == (len(tokens), slots)
    assert batch["label_positions"].dtype == batch["label_ids"].dtype == np.int64
    assert (np.diff(batch["label_positions"], axis=1) >= 0).all()
    for row, count in enumerate(tokens):
        labelled = batch["label_ids"][row] != IGNORE
        assert labelled.sum() == min(math.floor(rate * count + 1e-9), (ids[row, :count] > 4).sum())
        positions = batch["label_positions"][row, labelled]
        assert (positions == np.flatnonzero(batch["labels"][row] != IGNORE)).all()
        assert (batch["label_ids"][row, labelled] == ids[row, positions]).all()
        assert (batch["label_positions"][row] < LENGTH).all()


def test_a_full_row_has_rate_times_length_labels(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> None:
    ids = np.array(tokenizer(documents[:400], truncation=True, max_length=LENGTH, padding="max_length")["input_ids"])
    ids = ids[(ids != 0).all(axis=1)]
    rows = Rows(ids, np.ones_like(ids), ids, ids, index=np.arange(len(ids)), step=0)
    batch = objective(tokenizer, mlm_probability=0.15, mask_count="exact").corrupt(rows, RowRandom(0))
    assert len(ids) > 20
    assert (batch["label_ids"] != IGNORE).all() and batch["label_ids"].shape[1] == 9


@pytest.mark.parametrize("mask_count", ["bernoulli", "exact"])
def test_the_rate_follows_the_step(mask_count: str, tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> None:
    ramp = Ramp(start=0.4, end=0.1, steps=100)
    masker = objective(tokenizer, mlm_probability=ramp, mask_count=mask_count)
    for step, expected in ((0, 0.4), (50, 0.25), (100, 0.1), (5000, 0.1)):
        rows = packed(tokenizer, documents, 600, step=step)
        batch = masker.corrupt(rows, RowRandom(0))
        rate = (batch["labels"] != IGNORE).sum() / (rows.input_ids > 4).sum()
        assert rate == pytest.approx(expected, rel=0.15 if mask_count == "exact" else 0.05)
        if mask_count == "exact":
            assert batch["label_ids"].shape == (600, 25)  # ⌊0.4 × 64⌋, whatever the step


def test_too_low_a_rate_for_an_exact_count_is_one_line(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"objective\.mlm_probability: 0\.01 of 64 tokens is less than one"):
        objective(tokenizer, mlm_probability=0.01, mask_count="exact")
    with pytest.raises(UserError, match="no objective is named 'mlmm'; did you mean 'mlm'"):
        OBJECTIVES["mlmm"]


# -- loss ---------------------------------------------------------------------------------------------------------


def tensors(batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in batch.items()}


@pytest.mark.parametrize("mask_count", ["bernoulli", "exact"])
def test_the_loss_is_the_sum_over_the_labels(
    mask_count: str, tokenizer: PreTrainedTokenizerFast, documents: list[str]
) -> None:
    rows = packed(tokenizer, documents, 12)
    masker = objective(tokenizer, mask_count=mask_count)
    batch = tensors(masker.corrupt(rows, RowRandom(0)))
    everywhere = torch.randn(12, LENGTH, len(tokenizer), generator=torch.Generator().manual_seed(0))

    def model(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if "label_positions" in batch:
            return everywhere[torch.arange(12)[:, None], batch["label_positions"]].flatten(0, 1)
        return everywhere[batch["labels"] != IGNORE]

    total, count, metrics = masker.loss(model, batch)
    chosen = batch["labels"] != IGNORE
    expected = -everywhere.log_softmax(-1)[chosen].gather(1, batch["labels"][chosen][:, None]).sum()
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=0)
    assert count.item() == chosen.sum() and count.dtype == torch.int64
    assert metrics["correct"].item() == (everywhere.argmax(-1) == batch["labels"]).sum()


@pytest.mark.parametrize("mask_count", ["bernoulli", "exact"])
def test_no_label_gives_zero_and_a_gradient(mask_count: str, tokenizer: PreTrainedTokenizerFast) -> None:
    ids = np.full((2, LENGTH), 2, dtype=np.int64)  # nothing but [CLS]
    masker = MaskedLM(ObjectiveConfig(mask_count=mask_count), tokenizer, LENGTH)
    batch = tensors(masker.corrupt(Rows(ids, ids, ids, ids, index=np.arange(2), step=0), RowRandom(0)))
    weight = torch.ones(len(tokenizer), requires_grad=True)
    slots = batch["label_ids"].numel() if mask_count == "exact" else 0
    total, count, metrics = masker.loss(lambda batch: weight.expand(slots, -1).to(torch.bfloat16), batch)
    total.backward()
    assert total.item() == 0 and total.dtype == torch.float32
    assert count.item() == metrics["correct"].item() == 0
    assert weight.grad is not None and (weight.grad == 0).all()
