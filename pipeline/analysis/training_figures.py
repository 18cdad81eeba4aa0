"""Figures of training: loss along the budget, what sizes and distillation end at."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from pipeline.analysis.damage import is_dense
from pipeline.analysis.figure_style import empty, legend_below, log_ticks, panels, size_style, title
from pipeline.analysis.grids import sizes_in_order
from pipeline.analysis.students import TEACHINGS
from pipeline.analysis.task_words import Words
from pipeline.analysis.wording import count

MATCH_NAMES = {"seconds": "equal device seconds", "flops": "equal training FLOPs"}
MATCH_MARKERS = {"seconds": ("#0173b2", "o", "-"), "flops": ("#de8f05", "s", "--")}


def curves(curve: pd.DataFrame, frame: pd.DataFrame, *, match: str, words: Words) -> Figure:
    """Draw validation loss against what `match` counts: trunks thin, cooled-down endpoints marked, first seeds."""
    column, label = {"seconds": ("train_seconds", "device seconds"), "flops": ("train_flops", "training TFLOPs")}[match]
    figure, (axes,) = panels(1, height=4.4)
    styles = size_style(sizes_in_order(frame))
    curve = curve.assign(train_flops=curve["train_flops"] / 1e12)
    first = curve[(curve["seed"] == curve.groupby("size")["seed"].transform("min")) & curve["valid_loss"].notna()]
    if first.empty:
        empty(axes, "no validation points were taken")
        return figure
    ends: dict[str, float] = {}
    for size, (colour, marker) in styles.items():
        mine = first[first["size"] == size]
        trunk = mine[mine["phase"] == "trunk"].sort_values(column)
        axes.plot(trunk[column], trunk["valid_loss"], color=colour, linewidth=0.9, alpha=0.75)
        cooled = mine[mine["phase"].isin([match, f"{match}-early"])].sort_values(column)
        axes.plot(
            cooled[column],
            cooled["valid_loss"],
            color=colour,
            marker=marker,
            linestyle="none",
            markersize=7,
            label=size,
        )
        last = cooled[cooled["phase"] == match]["valid_loss"]
        if len(last):
            ends[size] = float(last.iloc[-1])
    axes.set(xlabel=label, ylabel=words.trained_loss_axis, yscale="log")
    log_ticks(axes.yaxis, steps=words.loss_ticks)
    if ends:
        best = min(ends, key=lambda size: ends[size])
        title(axes, f"{best} ends lowest at {MATCH_NAMES[match]} ({ends[best]:.2f})")
    legend_below(axes)
    return figure


def final_quality(frame: pd.DataFrame, *, words: Words) -> Figure:
    """Draw test loss and quality of the dense rows against parameters, by match: mean, and each seed as a dot."""
    dense = frame[is_dense(frame) & (frame["status"] == "ok")]
    figure, both = panels(2)
    for axes, column, label in zip(both, ("test_loss", "quality"), (words.loss_axis, words.quality_axis), strict=True):
        best = []
        for match, group in dense.groupby("match", sort=False):
            colour, marker, line = MATCH_MARKERS[str(match)]
            means = group.groupby("size")[["params_total", column]].mean().dropna().sort_values("params_total")
            if means.empty:
                continue
            axes.plot(
                means["params_total"],
                means[column],
                color=colour,
                linestyle=line,
                marker=marker,
                label=MATCH_NAMES[str(match)],
            )
            axes.scatter(group["params_total"].astype(float), group[column], s=9, color=colour, alpha=0.45)
            best.append((str(match), str(means[column].idxmin() if column == "test_loss" else means[column].idxmax())))
        axes.set(xlabel="parameters", ylabel=label, xscale="log")
        log_ticks(axes.xaxis, unit=count)
        word = "lowest loss" if column == "test_loss" else f"highest {words.quality}"
        winners = {size for _, size in best}
        where = "under every match" if len(winners) == 1 else ""
        text = ", ".join(winners) if where else ", ".join(f"{size} ({match})" for match, size in best)
        title(axes, f"The {word} is that of {text} {where}")
        legend_below(axes)
    return figure


def distillation(students: pd.DataFrame, *, words: Words) -> Figure:
    """Draw test loss and quality of plain runs and of every kind of student, by size, at one total budget."""
    kinds = 0 if students.empty else students["teaching"].nunique()
    figure, both = panels(2, height=3 + 0.12 * kinds)
    if students.empty:
        for axes in both:
            empty(axes, "no distilled students in this study")
        return figure
    styles = size_style([name for name in TEACHINGS if name in set(students["teaching"])])
    sizes = list(dict.fromkeys(students["size"]))
    for axes, column, label in zip(both, ("test_loss", "quality"), (words.loss_axis, words.quality_axis), strict=True):
        for place, (teaching, (colour, marker)) in enumerate(styles.items()):
            mine = students[students["teaching"] == teaching]
            beside = min(0.12, 0.8 / len(styles)) * (place - (len(styles) - 1) / 2)
            axes.plot(
                [sizes.index(s) + beside for s in mine["size"]],
                mine[column],
                color=colour,
                marker=marker,
                linestyle="none",
                markersize=8,
                label=TEACHINGS[teaching],
            )
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set_xlim(-0.5, len(sizes) - 0.5)
        axes.margins(y=0.15)
        axes.set(xlabel="student's size", ylabel=label)
        gain = students.loc[
            students["teaching"] != "plain", {"test_loss": "loss_gain", "quality": "quality_gain"}[column]
        ].dropna()
        unit = "lower loss" if column == "test_loss" else f"higher {words.quality}"
        title(axes, f"At equal totals {int((gain > 0).sum())} of {len(gain)} kinds of student have {unit}")
    legend_below(both[-1], columns=1 if len(styles) > 3 else None)
    return figure
