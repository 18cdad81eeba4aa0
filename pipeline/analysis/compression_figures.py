"""Figures of every configuration: loss or quality against what it costs to keep or to run, with the Pareto front."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.analysis.figure_style import empty, legend_below, log_ticks, panels, size_style, title
from pipeline.analysis.fronts import comparable, described, front
from pipeline.analysis.grids import sizes_in_order
from pipeline.analysis.kinds import GROUP_MARKERS, group_of
from pipeline.analysis.pareto import pareto_front
from pipeline.analysis.task_words import Words
from pipeline.analysis.training_figures import MATCH_NAMES

COSTS = {"size_bytes": ("file (MB)", 1e6), "infer_flops_per_token": ("inference FLOPs a token (millions)", 1e6)}
"""{column: (label, unit)}."""


def _points(axes: Axes, here: pd.DataFrame, styles: dict[str, Any], *, cost: str, column: str) -> None:
    """Draw the configurations, coloured by size and marked by group, and what the legend says of them."""
    groups = here["kind"].map(group_of)
    for size, (colour, _) in styles.items():
        for group, marker in GROUP_MARKERS.items():
            mine = here[(here["size"] == size) & (groups == group)]
            x, y = mine[cost] / COSTS[cost][1], mine[column]
            axes.scatter(x, y, s=26, color=colour, marker=marker, edgecolor="white", linewidth=0.4, alpha=0.9)
    for size, (colour, _) in styles.items():
        axes.plot([], [], color=colour, marker="o", linestyle="none", label=size)
    for group, marker in GROUP_MARKERS.items():
        if (groups == group).any():
            axes.plot([], [], color="0.4", marker=marker, linestyle="none", label=group)


def every_configuration(frame: pd.DataFrame, limits: list[int], *, cost: str, column: str, words: Words) -> Figure:
    """Draw every configuration's `column` (test_loss or quality) against its `cost` (of `COSTS`), by match.

    `limits` are bytes, drawn as dotted lines. Losses are means over seeds, and their front is chosen on validation loss;
    quality is the first seed's where not every row has it: a size's whole curve is translated with that one alone.
    """
    lower = column == "test_loss"
    first = frame["seed"] == frame.groupby("size")["seed"].transform("min")
    configs = described(frame if lower or words.every_row_scored else frame[first])
    configs = comparable(configs[configs[column].notna() & configs[cost].notna()], cost)
    matches = list(dict.fromkeys(configs["match"]))
    figure, every = panels(max(1, len(matches)), height=5.0)
    styles = size_style(sizes_in_order(frame))
    label, unit = COSTS[cost]
    if not matches:
        empty(every[0], "nothing was measured")
    for axes, match in zip(every, matches, strict=False):
        here = configs[configs["match"] == match].astype({cost: "float64"}).reset_index(drop=True)
        for limit in limits if cost == "size_bytes" else []:
            axes.axvline(limit / unit, color="0.6", linestyle=":", linewidth=0.8, zorder=0)
        _points(axes, here, styles, cost=cost, column=column)
        best = front(here, cost) if lower else here[pareto_front(here[cost], -here[column])].sort_values(cost)
        axes.step(best[cost] / unit, best[column], where="post", color="0.25", linewidth=1.2, zorder=1)
        axes.plot([], [], color="0.25", linewidth=1.2, label="Pareto front")
        if cost == "size_bytes":
            axes.plot([], [], color="0.6", linestyle=":", label="limits")
        axes.set(xscale="log", xlabel=label, ylabel=words.loss_axis if lower else words.quality_axis)
        if lower:
            axes.set_yscale("log")
            log_ticks(axes.yaxis, steps=words.loss_ticks)
        log_ticks(axes.xaxis)
        compressed = int((best["kind"] != "none").sum())
        title(axes, f"At {MATCH_NAMES[str(match)]} {compressed} of {len(best)} on the Pareto front are compressed")
        legend_below(axes)
    return figure
