"""Where each size ends in training, by width and by depth: the ends of cooldowns, never the middle of a trunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipeline.analysis.claim import NAMES
from pipeline.analysis.grids import Grid, deep_grid, wide_grid
from pipeline.analysis.task_words import Words
from pipeline.analysis.wording import number

TRUNK = "trunk"
_COSTS = ("step", "train_seconds", "train_flops")


def branch_ends(curve: pd.DataFrame) -> pd.DataFrame:
    """Return the end of each branch, a line a (size, phase): means over seeds, `valid_loss_sd`, and how many `seeds`.

    `curve` is the frame of curves.csv. The end is a branch's last point of each run that has a validation loss.
    """
    branches = curve[(curve["phase"] != TRUNK) & curve["valid_loss"].notna()]
    last = branches.sort_values("step").drop_duplicates(["size", "seed", "phase"], keep="last")
    grouped = last.groupby(["size", "phase"], sort=False)
    ends = grouped[[*_COSTS, "valid_loss"]].mean().astype("float64")
    ends["valid_loss_sd"] = grouped["valid_loss"].std(ddof=1)
    ends["seeds"] = grouped["seed"].nunique()
    return ends.reset_index()


def loss_by_size(curve: pd.DataFrame, sizes: Sequence[str]) -> dict[str, Any]:
    """Return `branch_ends` as JSON data, with the wide and the deep grid among `sizes` (fewest parameters first)."""
    ends = branch_ends(curve)
    return {
        "wide": _grid(wide_grid(sizes), fixed="num_layers"),
        "deep": _grid(deep_grid(sizes), fixed="d_model"),
        "ends": [
            {
                "size": str(line["size"]),
                "phase": str(line["phase"]),
                "seeds": int(line["seeds"]),
                **{name: float(line[name]) for name in (*_COSTS, "valid_loss")},
                "valid_loss_sd": None if pd.isna(line["valid_loss_sd"]) else float(line["valid_loss_sd"]),
            }
            for size in sizes
            for line in ends[ends["size"] == size].to_dict("records")
        ],
    }


def _grid(grid: Grid | None, *, fixed: str) -> dict[str, Any] | None:
    return None if grid is None else {fixed: grid.fixed, "sizes": grid.sizes}


def lowest_end(found: dict[str, Any], sizes: Sequence[str], match: str) -> dict[str, Any] | None:
    """Return the line of `ends` of lowest loss among `sizes` at the end of what `match` counts; None without one."""
    ends = [line for line in found["ends"] if line["size"] in sizes and line["phase"] == match]
    return min(ends, key=lambda line: float(line["valid_loss"]), default=None)


def _place(size: str, sizes: Sequence[str], *, least: str, most: str) -> str:
    """Return where in its grid a size stands."""
    if size == sizes[0]:
        return f", the {least} of {len(sizes)}"
    return (
        f", the {most} of {len(sizes)}"
        if size == sizes[-1]
        else f", number {sizes.index(size) + 1} of {len(sizes)} from the {least}"
    )


def loss_by_size_sentences(found: dict[str, Any], matches: Sequence[str], *, words: Words) -> list[str]:
    """Return which width and which depth end lowest under each match, one sentence a grid."""
    sentences = []
    for name, fixed, least, most in (
        ("wide", "num_layers", "narrowest", "widest"),
        ("deep", "d_model", "shallowest", "deepest"),
    ):
        grid = found[name]
        if grid is None:
            kind = "width" if name == "wide" else "depth"
            sentences.append(f"No two sizes of this study differ in {kind} alone.")
            continue
        alike = words.layers(grid[fixed]) if name == "wide" else f"width {grid[fixed]}"
        parts = []
        for match in matches:
            best = lowest_end(found, grid["sizes"], match)
            if best is not None:
                where = _place(best["size"], grid["sizes"], least=least, most=most)
                parts.append(f"{best['size']} at {NAMES[match]} ({number(best['valid_loss'], 3)}{where})")
        if parts:
            sentences.append(
                f"Of the sizes of {alike} the lowest {words.trained_loss} is that of {' and of '.join(parts)}."
            )
    return sentences
