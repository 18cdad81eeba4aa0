"""The sizes of a study in order, and which of them differ in width alone or in depth alone: the one definition of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.analysis.damage import is_dense
from pipeline.analysis.table import shape_of

ALIKE = {
    "d_model": ["num_layers", "head_width", "ffn_ratio"],
    "num_layers": ["d_model", "num_heads", "ffn_dim"],
}
"""{what sizes differ in alone: what is equal then}: the wider has more heads and a larger FFN in proportion, the deeper the same."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """At least two sizes that differ in one number alone, the smallest first; `fixed` is the other number.

    Of a wide grid that is `num_layers`, of a deep one `d_model`.
    """

    sizes: list[str]
    fixed: int


def with_proportions(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with `head_width`, the width of a head, and `ffn_ratio`, of the FFN's width to the model's."""
    width = frame["d_model"].astype("float64")
    return frame.assign(head_width=width / frame["num_heads"].astype("float64"), ffn_ratio=frame["ffn_dim"] / width)


def sizes_in_order(frame: pd.DataFrame) -> list[str]:
    """Return the sizes of the dense rows, fewest parameters first."""
    dense = frame[is_dense(frame)].groupby("size", sort=False)[["params_total", "d_model", "num_layers"]].max()
    return [str(size) for size in dense.sort_values(["params_total", "d_model", "num_layers"]).index]


def wide_grid(sizes: Sequence[str]) -> Grid | None:
    """Return the most sizes of one depth, with heads and FFN in proportion to their width; None without two."""
    return _grid(sizes, "d_model")


def deep_grid(sizes: Sequence[str]) -> Grid | None:
    """Return the most sizes of one width, with the same heads and FFN; None without two."""
    return _grid(sizes, "num_layers")


def _grid(sizes: Sequence[str], differ: str) -> Grid | None:
    """Return the grid of the most sizes, the first of two that have as many."""
    shapes = pd.DataFrame([shape_of(size).model_dump() for size in sizes], index=list(sizes))
    if shapes.empty:
        return None
    groups = [group for _, group in with_proportions(shapes).groupby(ALIKE[differ], sort=False)]
    largest = max(groups, key=len).sort_values(differ)
    fixed = int(largest[ALIKE[differ][0]].iloc[0])
    return Grid(sizes=list(largest.index), fixed=fixed) if len(largest) > 1 else None
