"""Sentences in batches of like length, so that little is padded."""

from __future__ import annotations

from collections.abc import Sequence


def batches_of_like_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Return indices in batches, longest first: rows times the longest row is at most `batch_tokens`, but never no row."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches, start = [], 0
    while start < len(order):
        rows = max(1, batch_tokens // lengths[order[start]])
        batches.append(order[start : start + rows])
        start += rows
    return batches
