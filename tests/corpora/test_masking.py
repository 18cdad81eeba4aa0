"""Masks: the right shares, no special token, at least one token a block, the same again from the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora.masking import IGNORED, Masking

VOCABULARY = 500
MASK = 4
MASKING = Masking(probability=0.15, vocab_size=VOCABULARY, seed=3)


def blocks(rows: int, length: int, seed: int = 0) -> np.ndarray:
    """Blocks with <s>, </s> at the end and in the middle, and padding in the last column."""
    ids = np.random.default_rng(seed).integers(5, VOCABULARY, (rows, length))
    ids[:, 0], ids[:, -2], ids[:, -1] = 0, 2, 1
    ids[::3, length // 2] = 2
    return ids


def test_shares_of_many_tokens() -> None:
    ids = blocks(4000, 64)
    seen, labels = MASKING.drawn(ids, np.random.default_rng(0))
    scored = labels != IGNORED
    assert scored.sum() / (ids >= 5).sum() == pytest.approx(0.15, abs=0.002)
    assert np.array_equal(labels[scored], ids[scored])
    assert np.array_equal(seen[~scored], ids[~scored])
    masked, kept = seen[scored] == MASK, seen[scored] == ids[scored]
    others = seen[scored][~masked & ~kept]
    # a random token is the right one once in so many times
    assert masked.mean() == pytest.approx(0.8, abs=0.01)
    assert kept.mean() == pytest.approx(0.1 + 0.1 / (VOCABULARY - 5), abs=0.01)
    assert len(others) / scored.sum() == pytest.approx(0.1, abs=0.01)
    assert others.min() >= 5
    assert len(np.unique(others)) > 0.9 * (VOCABULARY - 5)
    by_column = scored.mean(axis=0)[1:-2]
    assert by_column.std() < 0.02, "no place in a block is preferred"


def test_special_tokens_and_padding_stay() -> None:
    ids = blocks(500, 20)
    seen, labels = Masking(probability=0.9, vocab_size=VOCABULARY).drawn(ids, np.random.default_rng(1))
    assert np.array_equal(seen[ids < 5], ids[ids < 5])
    assert (labels[ids < 5] == IGNORED).all()
    assert ((seen == MASK) | (seen >= 5) | (ids < 5)).all()


@given(st.integers(1, 12), st.integers(0, 1000))
def test_at_least_one_token_a_block(ordinary: int, seed: int) -> None:
    ids = np.full((1, 16), 2)
    ids[0, :ordinary] = 7
    _, labels = Masking(probability=0.01, vocab_size=VOCABULARY).drawn(ids, np.random.default_rng(seed))
    assert 1 <= (labels != IGNORED).sum() <= 2


def test_number_scored_is_rounded_at_random() -> None:
    ids = np.full((2000, 12), 9)
    _, labels = MASKING.drawn(ids, np.random.default_rng(0))
    counts = (labels != IGNORED).sum(axis=1)
    assert set(counts.tolist()) == {1, 2}
    assert counts.mean() == pytest.approx(1.8, abs=0.05)


def test_fixed_masks_depend_on_seed_split_and_block_alone() -> None:
    ids = blocks(1, 64)[0]
    first = MASKING.fixed(ids, split="valid", block=7)
    for left, right in zip(first, MASKING.fixed(ids, split="valid", block=7), strict=True):
        assert np.array_equal(left, right)
    others = [
        MASKING.fixed(ids, split="test", block=7),
        MASKING.fixed(ids, split="valid", block=8),
        Masking(probability=0.15, vocab_size=VOCABULARY, seed=4).fixed(ids, split="valid", block=7),
    ]
    for _, labels in others:
        assert not np.array_equal(labels, first[1])
