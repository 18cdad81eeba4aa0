"""Figures of what rounding error and the loss it adds go with."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.analysis.figure_style import empty, legend_below, log_ticks, panels, title
from pipeline.analysis.training_figures import MATCH_MARKERS, MATCH_NAMES
from pipeline.analysis.why import BITS, CAUSES, MEASURES, correlations, finding, rounded

COLOURS = dict(zip(BITS, ("#029e73", "#d55e00"), strict=True))
LABELS = {"weight_error": "||W \u2212 Q(W)|| / ||W||", "added": "test loss added (nats)"}


def _panel(axes: Axes, rows: pd.DataFrame, cause: str, measure: str) -> None:
    """Draw means over seeds; lines join models that differ in `cause` alone."""
    fixed = [column for column in CAUSES[cause][1] if column != "seed"]
    names = list(dict.fromkeys([*fixed, "size", "match", "branch", "bits"]))
    means = rows.groupby(names, sort=False, as_index=False)[list(dict.fromkeys([cause, measure]))].mean()
    for (bits, *_), group in means.groupby(["bits", *fixed], sort=False):
        group = group.sort_values(cause)
        axes.plot(group[cause], group[measure], color=COLOURS[int(bits)], linewidth=0.7, alpha=0.6)
    for (bits, match, branch), group in means.groupby(["bits", "match", "branch"], sort=False):
        colour, marker = COLOURS[int(bits)], MATCH_MARKERS[str(match)][1]
        filled = {"full": colour, "early": "white"}[str(branch)]
        axes.plot(
            group[cause], group[measure], linestyle="none", marker=marker, markersize=5, markeredgecolor=colour,
            markerfacecolor=filled,
        )  # fmt: skip
    axes.set(xlabel=CAUSES[cause][0], ylabel=LABELS[measure], xscale="log")
    if cause == "tokens_per_param":
        log_ticks(axes.xaxis)
    else:
        levels = sorted(int(level) for level in means[cause].unique())
        axes.set_xticks(levels, [str(level) for level in levels])
        axes.set_xticks([], minor=True)


def _legend(axes: Axes, rows: pd.DataFrame) -> None:
    for bits, colour in COLOURS.items():
        axes.plot([], [], color=colour, label=f"{bits} bits")
    for match in rows["match"].unique():
        axes.plot(
            [], [], color="0.4", marker=MATCH_MARKERS[str(match)][1], linestyle="none", label=MATCH_NAMES[str(match)]
        )
    if (rows["branch"] == "early").any():
        axes.plot([], [], color="0.4", marker="o", markerfacecolor="white", linestyle="none", label="stopped early")
    legend_below(axes, columns=2)


def why(frame: pd.DataFrame) -> Figure:
    """Draw weight error and test loss added against width, depth and tokens a parameter; titles say Kendall's tau."""
    rows = rounded(frame)
    places = [(cause, measure) for measure in MEASURES for cause in CAUSES]
    if rows.empty:
        figure, (axes,) = panels(1, height=1.5)
        empty(axes, f"nothing was rounded to nearest at {' or '.join(map(str, BITS))} bits")
        return figure
    figure, every = panels(len(places), height=3.1)
    found = correlations(rows)
    for axes, (cause, measure) in zip(every, places, strict=True):
        if rows[measure].notna().any():
            _panel(axes, rows.dropna(subset=[cause, measure]), cause, measure)
            title(axes, finding(found, cause, measure))
        else:
            empty(axes, f"{MEASURES[measure]} was not measured")
    _legend(every[-1], rows)
    return figure
