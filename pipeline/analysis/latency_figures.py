"""The figure of latency: quality and loss of the deployed configurations against how long their engines take."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.analysis.figure_style import LOSS_STEPS, empty, legend_below, log_ticks, panels, title
from pipeline.analysis.latency_limits import deployed_configurations, limits_ms, timed_settings
from pipeline.analysis.pareto import pareto_front
from pipeline.selection import PRIMARY_MATCH, heavy, light

SIDES = {
    "light": ("#0173b2", "o"),
    "heavy": ("#de8f05", "^"),
    "neither": ("#949494", "s"),
}
"""{side: (colour, marker)}, of seaborn's colour-blind palette."""


def _marked(axes: Axes, here: pd.DataFrame, column: str) -> None:
    for side, (colour, marker) in SIDES.items():
        mine = here[here["side"] == side]
        if len(mine):
            axes.scatter(
                mine["latency_ms_p50"],
                mine[column],
                s=34,
                color=colour,
                marker=marker,
                edgecolor="white",
                linewidth=0.5,
                label=side,
                zorder=3,
            )


def _labelled(axes: Axes, here: pd.DataFrame, column: str, *, lower: bool) -> None:
    """Write every size once, at its best point, on the outer side of what is drawn."""
    best = here.sort_values(column, ascending=lower).drop_duplicates("size")
    for line in best.itertuples():
        axes.annotate(
            str(line.size_name),
            (line.latency_ms_p50, getattr(line, column)),
            xytext=(0, -5 if lower else 5),
            textcoords="offset points",
            ha="center",
            va="top" if lower else "bottom",
            fontsize=8,
            color="0.2",
            zorder=4,
        )


def quality_and_latency(frame: pd.DataFrame, engines: pd.DataFrame, count: int, *, quality_name: str) -> Figure:
    """Draw quality of the engines' own output and test loss against median latency, under the primary match.

    One thread and batch 1 where these were timed, else the smallest batch; `count` limits are drawn as dotted lines.
    """
    figure, both = panels(2, height=4.2)
    settings = timed_settings(engines)
    deployed = deployed_configurations(frame, engines, settings[0]) if settings else pd.DataFrame()
    if deployed.empty:
        for axes in both:
            empty(axes, "no latencies were measured")
        return figure
    limits = limits_ms(frame, deployed, count)
    here = deployed[deployed["match"] == PRIMARY_MATCH].reset_index(drop=True)
    here["side"] = "neither"
    for name, side in (("light", light), ("heavy", heavy)):
        here.loc[side(here), "side"] = name
    here["size_name"] = here["size"]  # `size` of a named tuple is its length
    threads, batch = settings[0]
    for axes, column, label in zip(
        both, ("engine_quality", "test_loss"), (quality_name, "test loss (nats a token)"), strict=True
    ):
        lower = column == "test_loss"
        for limit in limits:
            axes.axvline(limit, color="0.6", linestyle=":", linewidth=0.8, zorder=0)
        chosen_by = here["valid_loss"] if lower else -here[column]
        front = here[pareto_front(here["latency_ms_p50"], chosen_by)].sort_values("latency_ms_p50")
        axes.step(
            front["latency_ms_p50"],
            front[column],
            where="post",
            color="0.25",
            linewidth=1.2,
            zorder=1,
            label="Pareto front",
        )
        _marked(axes, here, column)
        _labelled(axes, here, column, lower=lower)
        axes.set(
            xscale="log",
            xlabel=f"ms a batch, median ({threads} thread{'s' * (threads > 1)}, batch {batch})",
            ylabel=label,
        )
        if lower:
            axes.set_yscale("log")
            log_ticks(axes.yaxis, steps=LOSS_STEPS)
        axes.margins(x=0.08, y=0.12)
        log_ticks(axes.xaxis)
        held = front["side"].value_counts()
        title(
            axes,
            f"Of {len(front)} on the front of {'loss' if lower else quality_name} and latency "
            f"{held.get('heavy', 0)} are heavily compressed, {held.get('light', 0)} lightly",
        )
        legend_below(axes, columns=4)
    return figure
