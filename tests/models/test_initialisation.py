"""How new models begin: what is counted, what becomes of it, and that nothing else is touched."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mlm_pretrain.config import ModelConfig
from mlm_pretrain.config_file import make_config
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.build import build_model
from mlm_pretrain.models.initialisation import cooccurrence as statistics
from mlm_pretrain.models.initialisation.registered import (
    EMBEDDING_STD,
    INITIALISATIONS,
    TextSample,
    chosen_initialisation,
)
from mlm_pretrain.stream.pack import Segmenter
from mlm_pretrain.text.tokenizing.vocabulary import ordinary_token_ids, special_token_ids
from tests.models.test_models import ARCHITECTURES


def test_neighbours_are_counted_by_distance_within_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "CHUNK", 7)  # many chunks, whose edges lie in the middle of windows
    random = np.random.default_rng(0)
    ids, lengths = random.integers(-1, 9, 200), [3, 1, 40, 56, 2, 98]
    segments = np.repeat(np.arange(len(lengths)), lengths)
    contexts = np.array([0, 2, 3, 7])
    expected: Counter[tuple[int, int]] = Counter()
    for here in range(len(ids)):
        for there in range(len(ids)):
            distance = abs(here - there)
            if 0 < distance <= statistics.WINDOW and segments[here] == segments[there] and ids[here] >= 0:
                expected[ids[here], ids[there]] += statistics.WINDOW + 1 - distance
    counted = statistics.neighbours(ids, segments, 9, contexts).toarray()
    assert counted.tolist() == [[expected[token, context] for context in contexts] for token in range(9)]


def test_mutual_information_is_positive_and_smoothed() -> None:
    counts = np.random.default_rng(0).poisson(1.0, (20, 12)).astype(np.float32)
    smoothed = counts.sum(axis=0) ** statistics.SMOOTHING
    of_context = smoothed / smoothed.sum()
    given_token = counts / counts.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        expected = np.maximum(np.log(given_token / of_context), 0)
    found = statistics.mutual_information(statistics.csr_matrix(counts))
    assert found.nnz == np.count_nonzero(expected)
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-5, atol=1e-6)


def test_tokens_of_the_same_neighbours_have_like_vectors() -> None:
    """Words of two kinds: each kind's stand beside function words of its own."""
    random = np.random.default_rng(0)
    kinds = random.integers(0, 2, 4000)
    sentences = [[20 + kind, random.integers(10 * kind, 10 * kind + 10), 22 + kind] for kind in kinds]
    ids, segments = np.concatenate(sentences), np.repeat(np.arange(len(sentences)), 3)
    tokens, vectors = statistics.token_vectors(ids, segments, vocabulary=30, size=8, seed=0)
    assert tokens.tolist() == list(range(24))
    vectors = vectors[:20] / np.linalg.norm(vectors[:20], axis=1, keepdims=True)
    like = vectors @ vectors.T
    assert like[:10, :10].min() > 0.5 > 0 > like[:10, 10:].max()


def test_vectors_are_centred_spread_over_all_dimensions_and_repeatable() -> None:
    random = np.random.default_rng(0)
    ids, segments = random.zipf(1.3, 30_000) % 300, np.repeat(np.arange(300), 100)
    tokens, vectors = statistics.token_vectors(ids, segments, 310, 32, seed=3)
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=1e-5)
    assert vectors.std(axis=0).max() < 2 * vectors.std(axis=0).min()
    again, same = statistics.token_vectors(ids, segments, 310, 32, seed=3)
    assert (tokens.tolist(), vectors.tobytes()) == (again.tolist(), same.tobytes())
    assert not np.allclose(vectors, statistics.token_vectors(ids, segments, 310, 32, seed=4)[1])


@pytest.fixture(scope="module")
def sample(documents: list[str], tokenizer: PreTrainedTokenizerFast) -> TextSample:
    segments = Segmenter(tokenizer, 64)(documents)
    return TextSample(segments.ids, segments.lengths, ordinary_token_ids(tokenizer))


def built(name: str, tokenizer: PreTrainedTokenizerFast, tied: bool = True) -> PreTrainedModel:
    config = {**ARCHITECTURES[name], "tie_word_embeddings": tied}
    return build_model(ModelConfig(model_type=name, config=config), tokenizer, 64)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_embeddings_begin_from_counts_and_nothing_else_is_drawn(
    name: str, tied: bool, tokenizer: PreTrainedTokenizerFast, sample: TextSample
) -> None:
    model, before = built(name, tokenizer, tied), built(name, tokenizer, tied).state_dict()
    drawn = _states()
    facts = INITIALISATIONS["cooccurrence"](model, tokenizer, sample, 0)
    assert _states() == drawn
    weight = model.get_input_embeddings().weight.detach()
    tokens, size = sample.ordinary, weight.shape[1]
    norms = weight[tokens].norm(dim=1)
    torch.testing.assert_close(norms, torch.full_like(norms, EMBEDDING_STD * size**0.5))
    assert 300 < facts["tokens_with_vectors"] < len(tokens)
    assert len({row.numpy().tobytes() for row in weight[tokens]}) == len(tokens)
    head = model.get_output_embeddings().weight.detach()
    if head.shape == weight.shape:
        assert torch.equal(head[tokens], weight[tokens])
    after = model.state_dict()
    for place, old in before.items():
        if old.shape == weight.shape:  # special tokens, padding among them, keep their rows
            special = special_token_ids(tokenizer)
            assert torch.equal(after[place][special], old[special])
        elif not torch.equal(after[place], old):  # a layer that passes them on
            assert_differs_by_an_identity(after[place], old)


def assert_differs_by_an_identity(new: torch.Tensor, old: torch.Tensor) -> float:
    """What the identity is multiplied by; in a fused projection it is the last part."""
    assert new.ndim == 2
    size = new.shape[1]
    difference = new - old
    assert not difference[:-size].any()
    added = difference[-size:]
    torch.testing.assert_close(added, added[0, 0] * torch.eye(size), rtol=1e-5, atol=1e-6)
    return float(added[0, 0])


def _states() -> tuple[bytes, bytes]:
    """Of the generators that the whole process shares."""
    return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()  # noqa: NPY002


def test_what_is_rare_or_special_gets_no_vector(tokenizer: PreTrainedTokenizerFast) -> None:
    model, ordinary = built("modernbert", tokenizer), ordinary_token_ids(tokenizer)
    text = np.tile([tokenizer.cls_token_id, *ordinary[:20], tokenizer.sep_token_id], 5).astype(np.int32)
    ids = np.concatenate([text, ordinary[20:30].astype(np.int32)])
    sample = TextSample(ids, np.array([22] * 5 + [10], dtype=np.int32), ordinary)
    assert INITIALISATIONS["cooccurrence"](model, tokenizer, sample, 0)["tokens_with_vectors"] == 20


def test_a_sample_without_any_frequent_token_leaves_random_rows(tokenizer: PreTrainedTokenizerFast) -> None:
    model, ordinary = built("bert", tokenizer), ordinary_token_ids(tokenizer)
    sample = TextSample(ordinary[:4].astype(np.int32), np.array([4], dtype=np.int32), ordinary)
    assert INITIALISATIONS["cooccurrence"](model, tokenizer, sample, 0)["tokens_with_vectors"] == 0
    assert model.get_input_embeddings().weight.isfinite().all()


def test_only_new_models_begin_so() -> None:
    assert chosen_initialisation(ModelConfig(preset="nano")) == "cooccurrence"
    assert chosen_initialisation(ModelConfig(preset="nano", init_embeddings="random")) == "random"
    assert chosen_initialisation(ModelConfig(path="somewhere")) == "random"
    assert chosen_initialisation(ModelConfig(preset="base", init_from="somewhere")) == "random"


@pytest.mark.parametrize("origin", [{"path": "there"}, {"preset": "mini", "init_from": "there"}])
def test_embeddings_of_a_checkpoint_are_not_overwritten(origin: dict[str, str]) -> None:
    with pytest.raises(UserError, match="init_embeddings: cooccurrence would overwrite the embeddings of ") as error:
        make_config({"model": {**origin, "init_embeddings": "cooccurrence"}})
    assert "\n" not in str(error.value)
