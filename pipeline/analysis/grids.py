"""The sizes of a study in order, and the grids among them: sizes that differ in width alone, or in depth alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.analysis.damage import is_dense
from pipeline.analysis.table import shape_of


@dataclass(frozen=True, kw_only=True)
class Grid:
    """At least two sizes that differ in one number alone, the smallest first; `fixed` is the other number.

    Of a wide grid that is `num_layers`, of a deep one `d_model`.
    """

    sizes: list[str]
    fixed: int


def sizes_in_order(frame: pd.DataFrame) -> list[str]:
    """Return the sizes of the dense rows, fewest parameters first."""
    dense = frame[is_dense(frame)].groupby("size", sort=False)[["params_total", "d_model", "num_layers"]].max()
    return [str(size) for size in dense.sort_values(["params_total", "d_model", "num_layers"]).index]


def wide_grid(sizes: Sequence[str]) -> Grid | None:
    """Return the most sizes of one depth, with heads and FFN in proportion to their width; None without two."""
    shapes = {size: shape_of(size) for size in sizes}
    kinds = {size: (s.num_layers, s.d_model / s.num_heads, s.ffn_dim / s.d_model) for size, s in shapes.items()}
    grid = _largest(kinds)
    return Grid(sizes=sorted(grid, key=lambda s: shapes[s].d_model), fixed=shapes[grid[0]].num_layers) if grid else None


def deep_grid(sizes: Sequence[str]) -> Grid | None:
    """Return the most sizes of one width, with the same heads and FFN; None without two."""
    shapes = {size: shape_of(size) for size in sizes}
    grid = _largest({size: (s.d_model, s.num_heads, s.ffn_dim) for size, s in shapes.items()})
    return Grid(sizes=sorted(grid, key=lambda s: shapes[s].num_layers), fixed=shapes[grid[0]].d_model) if grid else None


def _largest(kinds: Mapping[str, tuple[float, ...]]) -> list[str]:
    """Return the sizes of the kind that has most of them, the first of two that have as many; nothing of less than two."""
    groups: dict[tuple[float, ...], list[str]] = {}
    for size, kind in kinds.items():
        groups.setdefault(kind, []).append(size)
    largest = max(groups.values(), key=len, default=[])
    return largest if len(largest) > 1 else []
