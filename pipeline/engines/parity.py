"""Whether two engines say the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def same_hypotheses(first: Sequence[Any], second: Sequence[Any]) -> float:
    """Return the share of equal hypotheses, lines of text or lists of ids; ValueError on none, or unequal numbers."""
    if not first:
        raise ValueError("no hypotheses to compare")
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
