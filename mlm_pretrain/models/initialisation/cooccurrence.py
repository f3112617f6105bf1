"""Vectors of tokens from how often they stand near each other: counts → positive pointwise mutual information → SVD.

Everything is sparse but for the vectors themselves, and exact until the SVD: counts are sums of whole numbers.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from sklearn.utils.extmath import randomized_svd

WINDOW = 5
"""Tokens to each side; one at distance d counts `WINDOW + 1 - d`, as in word2vec."""
SMOOTHING = 0.75
"""The power of the contexts' counts, which makes rare contexts less surprising (Levy et al. 2015)."""
EXPONENT = 0.5
"""The power of the singular values in the vectors (Levy et al. 2015)."""
LEAST_COUNT = 5
"""Tokens that occur less often have no vector: of so few neighbours nothing can be said."""
MOST_CONTEXTS = 8192
"""The most frequent tokens alone are contexts: this bounds memory, whatever the vocabulary."""
CHUNK = 1 << 20
"""Tokens that are counted at a time."""
POWER_ITERATIONS = 2


def token_vectors(
    ids: np.ndarray, segments: np.ndarray, vocabulary: int, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the tokens of a text.

    The shifted matrix that word2vec factorises is one of mutual information (Levy & Goldberg, NIPS 2014); that of
    positive values, with smoothed contexts and the root of the singular values, is as good (Levy et al., TACL 2015).
    The SVD is a randomised one (Halko et al., SIAM Review 2011).

    Args:
        ids: [N] integers in [0, vocabulary), or -1 for what is no text.
        segments: [N] integers: tokens with different ones don't see each other.
        vocabulary: V, number of ids.
        size: D, of a vector.
        seed: of the SVD's random start and of the rotation.

    Returns:
        The ids that occur often enough, [T] ascending, and their vectors, [T, D] float32: their mean is zero, and
        their variance spread evenly over the dimensions.
    """
    counts = np.bincount(ids[ids >= 0], minlength=vocabulary)
    tokens = np.flatnonzero(counts >= LEAST_COUNT)
    contexts = np.sort(tokens[np.argsort(-counts[tokens], kind="stable")[:MOST_CONTEXTS]])
    matrix = mutual_information(neighbours(ids, segments, vocabulary, contexts)[tokens])
    rank = min(size, *matrix.shape)
    vectors = np.zeros((len(tokens), size), dtype=np.float32)
    if rank:
        left, values, _ = randomized_svd(matrix, rank, n_iter=POWER_ITERATIONS, random_state=seed)
        vectors[:, :rank] = left * values**EXPONENT
        vectors -= vectors.mean(axis=0)
    return tokens, vectors @ _rotation(size, seed)


def neighbours(ids: np.ndarray, segments: np.ndarray, vocabulary: int, contexts: np.ndarray) -> csr_matrix:
    """How often each token has each context near it, weighted by distance; [V, contexts] float32 of whole numbers.

    Args:
        ids, segments, vocabulary: see `token_vectors`.
        contexts: ids, ascending.
    """
    column_of = np.full(vocabulary + 1, -1, dtype=np.int32)  # the last one is that of -1
    column_of[contexts] = np.arange(len(contexts))
    total = csr_matrix((vocabulary, len(contexts)), dtype=np.float32)
    for start in range(0, len(ids), CHUNK):
        rows, columns, weights = [], [], []
        for distance in range(1, WINDOW + 1):
            stop = max(min(start + CHUNK, len(ids) - distance), start)
            first, second = slice(start, stop), slice(start + distance, stop + distance)
            near = segments[first] == segments[second]
            for token, context in ((ids[first], ids[second]), (ids[second], ids[first])):
                column = column_of[context]
                kept = near & (token >= 0) & (column >= 0)
                rows.append(token[kept])
                columns.append(column[kept])
                weights.append(np.full(len(columns[-1]), WINDOW + 1 - distance, dtype=np.float32))
        places = (np.concatenate(rows), np.concatenate(columns))
        total = total + coo_matrix((np.concatenate(weights), places), shape=total.shape).tocsr()
    return total


def mutual_information(counts: csr_matrix) -> csr_matrix:
    """Positive pointwise mutual information of tokens (rows) and contexts (columns): max(0, ln p(t, c) / p(t) p(c)),
    where p(c) is of counts to the power of `SMOOTHING`."""
    of_tokens = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    of_contexts = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel() ** SMOOTHING
    expected = np.repeat(of_tokens, np.diff(counts.indptr)) * of_contexts[counts.indices] / of_contexts.sum()
    positive = csr_matrix((np.log(counts.data / expected), counts.indices, counts.indptr), shape=counts.shape)
    positive.data = np.maximum(positive.data, 0.0).astype(np.float32)
    positive.eliminate_zeros()
    return positive


def _rotation(size: int, seed: int) -> np.ndarray:
    """A random rotation (or reflection), [size, size] float32: the SVD's first dimensions hold most of the variance."""
    square = np.random.default_rng(seed).standard_normal((size, size))
    return np.linalg.qr(square)[0].astype(np.float32)
