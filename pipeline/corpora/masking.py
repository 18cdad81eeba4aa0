"""Masks of a masked language model: which tokens are scored, and what the model sees in their place.

Devlin et al. 2019, section 3.1: 15 % of the tokens are scored; of them 80 % are seen as <mask>, 10 % as a random token and
10 % as they are. Liu et al. 2019, section 4.1: training draws them anew every time that it sees a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.corpora.tokenizer import FIRST_ORDINARY_ID, MASK_ID

Ints = NDArray[np.int64]
IGNORED = -100
MASKED, RANDOM = 0.8, 0.1  # shares of the scored tokens; the rest are seen as they are
_NAMES = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How a corpus is masked; `seed` fixes the masks that do not change (the corpus' split_seed)."""

    probability: float
    vocab_size: int
    seed: int = 0

    def drawn(self, ids: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Return what the model sees (B, S) and the labels (B, S), -100 where not scored, for padded blocks of ids (B, S).

        Special tokens are never scored, and none is put in another's place. A block of n ordinary tokens has
        probability x n scored, rounded up or down at random so that the share is exact in the mean, and at least one.
        """
        ordinary = ids >= FIRST_ORDINARY_ID
        counts = ordinary.sum(axis=1)
        wanted = np.floor(self.probability * counts + rng.random(len(ids))).astype(np.int64)
        wanted = np.maximum(wanted, np.minimum(counts, 1))
        rank = np.where(ordinary, rng.random(ids.shape), 2.0).argsort(axis=1).argsort(axis=1)
        scored = rank < wanted[:, None]
        fate = rng.random(ids.shape)
        seen = np.where(scored & (fate < MASKED), MASK_ID, ids)
        others = rng.integers(FIRST_ORDINARY_ID, self.vocab_size, ids.shape)
        seen = np.where(scored & (fate >= 1 - RANDOM), others, seen)
        return seen, np.where(scored, ids, IGNORED)

    def fixed(self, ids: Ints, *, split: str, block: int) -> tuple[Ints, Ints]:
        """Return what the model sees (S,) and the labels (S,) of one block without padding: the same at every call."""
        rng = np.random.default_rng([self.seed, _NAMES.index(split), block])
        seen, labels = self.drawn(ids[None], rng)
        return seen[0], labels[0]
