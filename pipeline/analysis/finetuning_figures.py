"""Figures of finetuning: what a pretraining loss is worth at each size, and what pretraining brought."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pipeline.analysis.figure_style import empty, legend_below, log_ticks, panels, size_style, title
from pipeline.analysis.grids import sizes_in_order
from pipeline.analysis.task_words import Words
from pipeline.analysis.training_figures import MATCH_MARKERS
from pipeline.analysis.what_pretraining_brought import told_apart
from pipeline.analysis.wording import count, number, signed
from pipeline.expected import SCRATCH

COLUMNS = ("quality", "test_loss")


def equal_pretraining_loss(frame: pd.DataFrame, found: dict[str, Any], *, words: Words) -> Figure:
    """Draw quality and test loss after finetuning against pretraining loss; `found` is of verdict.json."""
    figure, both = panels(2, height=4.0)
    styles = size_style(sizes_in_order(frame))
    for axes, column, label in zip(both, COLUMNS, (words.quality_axis, words.loss_axis), strict=True):
        if not found["points"]:
            empty(axes, "no branch was finetuned and measured")
            continue
        for size, (colour, marker) in styles.items():
            mine = sorted(
                (line for line in found["points"] if line["size"] == size),
                key=lambda line: float(line["pretrain_valid_loss"]),
            )
            x, y = ([line[name] for line in mine] for name in ("pretrain_valid_loss", column))
            axes.plot(x, y, color=colour, marker=marker, markersize=6, linewidth=1.1, label=size)
        for one in found["common"]:
            axes.axvline(one["loss"], color="0.3", linestyle=":", linewidth=1.1, zorder=0)
        axes.invert_xaxis()
        axes.set(xlabel=f"{words.trained_loss}, lower to the right", ylabel=label)
        name = words.quality if column == "quality" else "test loss"
        if found["common"]:
            widest = max(found["common"], key=lambda one: len(one["sizes"]))
            spread = number(widest[f"{column}_spread"], 1 if column == "quality" else 3)
            title(
                axes,
                f"At a pretraining loss of {widest['loss']:.2f} the {name} of {len(widest['sizes'])} sizes is {spread} apart",
            )
        else:
            title(axes, "No two sizes span a common pretraining loss")
        legend_below(axes)
    return figure


def what_pretraining_brought(frame: pd.DataFrame, lines: list[dict[str, Any]], *, words: Words) -> Figure:
    """Draw quality and test loss of fp32 and of scratch rows against parameters, by match; `lines` are of verdict.json."""
    figure, both = panels(2, height=3.9)
    rows = frame[frame["status"] == "ok"]
    params = frame.groupby("size")["params_total"].max().dropna()
    lines = [line for line in lines if line["size"] in params.index]
    for axes, column, label in zip(both, COLUMNS, (words.quality_axis, words.loss_axis), strict=True):
        if not lines:
            empty(axes, "no size was finetuned without pretraining too")
            continue
        for match in dict.fromkeys(line["match"] for line in lines):
            colour, marker, style = MATCH_MARKERS[match]
            mine = sorted(
                (line for line in lines if line["match"] == match), key=lambda line: int(params[line["size"]])
            )
            x = [params[line["size"]] for line in mine]
            for side, recipe, filled in (("pretrained", "fp32", colour), ("scratch", SCRATCH, "white")):
                name = f"{'pretrained' if side == 'pretrained' else 'random weights'} ({match})"
                y = [line[side][column] for line in mine]
                axes.plot(x, y, color=colour, marker=marker, markerfacecolor=filled, linestyle=style, label=name)
                dots = rows[(rows["match"] == match) & (rows["recipe"] == recipe) & rows["teaching"].isna()]
                axes.scatter(dots["params_total"].astype(float), dots[column], s=9, color=colour, alpha=0.45)
        axes.set(xlabel="parameters", ylabel=label, xscale="log")
        log_ticks(axes.xaxis, unit=count)
        key, digits = ("quality", 1) if column == "quality" else ("loss", 3)
        gains = [line[key]["difference"] for line in lines]
        what = f"{signed(min(gains), digits)} to {signed(max(gains), digits)}"
        unit = words.quality_points if column == "quality" else "nats of test loss less"
        title(axes, f"With pretraining {what} {unit}; intervals {told_apart([line[key] for line in lines])}")
        legend_below(axes, columns=2)
    return figure
