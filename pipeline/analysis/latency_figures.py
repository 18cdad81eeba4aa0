"""The figure of latency: quality and loss of the deployed configurations against how long their engines take."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.analysis.figure_style import empty, legend_below, log_ticks, panels, title
from pipeline.analysis.latency_limits import LATENCY_TOLERANCE, deployed_configurations, limits_ms, timed_settings
from pipeline.analysis.task_words import Words
from pipeline.selection import PRIMARY_MATCH, heavy, light

SIDES = {
    "light": ("#0173b2", "o"),
    "heavy": ("#de8f05", "^"),
    "neither": ("#949494", "s"),
}
"""{side: (colour, marker)}, of seaborn's colour-blind palette."""

OTHER_SHAPE = 0.15
"""What is faster or slower than every light model of its size by more is labelled: of one shape, noise alone differs less."""


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


def _joined(axes: Axes, here: pd.DataFrame, column: str) -> None:
    """Join what is light of one size, int8 and fp32, by a thin line."""
    for _, mine in here[here["side"] == "light"].sort_values("latency_ms_p50").groupby("size"):
        axes.plot(mine["latency_ms_p50"], mine[column], color=SIDES["light"][0], linewidth=0.8, alpha=0.5, zorder=2)


def _labelled(axes: Axes, here: pd.DataFrame, column: str, *, lower: bool) -> None:
    """Write a size beside its fastest light point, and size/recipe beside what is of another shape."""
    ranked = here.assign(rank=here["side"].map({"light": 0}).fillna(1)).sort_values(["rank", "latency_ms_p50"])
    named = ranked.drop_duplicates("size")
    texts = dict(zip(named.index, named["size"], strict=True))
    for size, mine in here.groupby("size"):
        light_ms = mine.loc[mine["side"] == "light", "latency_ms_p50"].to_numpy()
        for place, line in mine[mine["side"] != "light"].iterrows():
            if (abs(light_ms / line["latency_ms_p50"] - 1) > OTHER_SHAPE).all():
                texts[place] = f"{size}/{line['recipe']}"
    for place, text in texts.items():
        whole = "/" not in text  # a size: above or below; size/recipe: to the right
        axes.annotate(
            text,
            (here.loc[place, "latency_ms_p50"], here.loc[place, column]),
            xytext=(0, -5 if lower else 5) if whole else (6, 0),
            textcoords="offset points",
            ha="center" if whole else "left",
            va="center" if not whole else "top" if lower else "bottom",
            fontsize=8 if whole else 6.5,
            color="0.2",
            zorder=4,
        )


def latency_front(here: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the lines that none beats: better in `column` (lower) and as fast, or as good and faster.

    Latencies that differ by `LATENCY_TOLERANCE` at most are equally fast.
    """
    ms, losses = here["latency_ms_p50"].to_numpy(), here[column].to_numpy()
    as_fast = ms[None, :] <= (1 + LATENCY_TOLERANCE) * ms[:, None]  # (line, other)
    faster = (1 + LATENCY_TOLERANCE) * ms[None, :] < ms[:, None]
    better, as_good = losses[None, :] < losses[:, None], losses[None, :] == losses[:, None]
    beaten = ((as_fast & better) | (faster & as_good)).any(axis=1)
    return here[~beaten].sort_values("latency_ms_p50")


def quality_and_latency(frame: pd.DataFrame, engines: pd.DataFrame, count: int, *, words: Words) -> Figure:
    """Draw quality of the engines' own output and test loss against median latency, under the primary match.

    One thread and batch 1 where these were timed, else the smallest batch; `count` limits, where that setting has a ladder,
    are drawn as dotted lines.
    """
    figure, both = panels(2, height=4.2)
    settings = timed_settings(engines)
    deployed = deployed_configurations(frame, engines, settings[0]) if settings else pd.DataFrame()
    here = deployed[deployed["match"] == PRIMARY_MATCH].reset_index(drop=True) if len(deployed) else deployed
    if here.empty:
        for axes in both:
            empty(axes, "no latencies were measured")
        return figure
    limits = limits_ms(frame, deployed, count)
    here["side"] = "neither"
    for name, side in (("light", light), ("heavy", heavy)):
        here.loc[side(here), "side"] = name
    threads, batch = settings[0]
    for axes, column, label in zip(
        both, ("engine_quality", "test_loss"), (words.quality_axis, words.loss_axis), strict=True
    ):
        lower = column == "test_loss"
        for limit in limits:
            axes.axvline(limit, color="0.6", linestyle=":", linewidth=0.8, zorder=0)
        front = latency_front(here.assign(chosen_by=here["valid_loss"] if lower else -here[column]), "chosen_by")
        reach = [*front["latency_ms_p50"], here["latency_ms_p50"].max()]
        held = [*front[column], front[column].iloc[-1]]
        axes.step(reach, held, where="post", color="0.25", linewidth=1.2, zorder=1, label="Pareto front")
        _joined(axes, here, column)
        _marked(axes, here, column)
        _labelled(axes, here, column, lower=lower)
        axes.set(
            xscale="log",
            xlabel=f"ms a batch, median ({threads} thread{'s' * (threads > 1)}, batch {batch})",
            ylabel=label,
        )
        if lower:
            axes.set_yscale("log")
            log_ticks(axes.yaxis, steps=words.loss_ticks)
        axes.margins(x=0.08, y=0.12)
        log_ticks(axes.xaxis, steps=(1, 1.5, 2, 3, 4, 5, 7))
        sides = front["side"].value_counts()
        title(
            axes,
            f"Of {len(front)} on the front of {'loss' if lower else words.quality} and latency "
            f"{sides.get('heavy', 0)} are heavily compressed, {sides.get('light', 0)} lightly",
        )
        legend_below(axes, columns=4)
    return figure
