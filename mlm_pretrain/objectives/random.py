"""Randomness that belongs to a row of the run, whatever batch, process or worker handles it."""

from __future__ import annotations

import numpy as np


class RowRandom:
    """Uniform draws keyed by (seed, row): Philox, a counter-based generator (Salmon et al., SC 2011)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def uniform(self, rows: np.ndarray, n: int) -> np.ndarray:
        """The first `n` draws of each row.

        Args:
            rows: [B] non-negative integers, the rows' numbers in the run.

        Returns:
            [B, n] float32 in [0, 1).
        """
        draws = np.empty((len(rows), n), dtype=np.float32)
        # One bit generator that is set back for each row: building a new one would cost more than its draws.
        bits = np.random.Philox(key=np.array([self.seed, 0], dtype=np.uint64))
        generator = np.random.Generator(bits)
        fresh = bits.state
        for place, row in enumerate(rows.tolist()):
            fresh["state"]["key"][1] = row
            bits.state = fresh
            generator.random(out=draws[place], dtype=np.float32)
        return draws
