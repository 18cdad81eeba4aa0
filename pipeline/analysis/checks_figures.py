"""Figures of the first study's checks on training: loss by width and depth, time to a loss, early and late branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.analysis.figure_style import (
    MARKERS,
    empty,
    legend_below,
    log_ticks,
    panels,
    size_style,
    title,
)
from pipeline.analysis.grids import sizes_in_order
from pipeline.analysis.loss_by_size import TRUNK, lowest_end
from pipeline.analysis.task_words import Words
from pipeline.analysis.time_to_loss import larger_took_less
from pipeline.analysis.training_figures import MATCH_NAMES
from pipeline.analysis.wording import count

UNITS = {"steps": ("steps", 1.0), "seconds": ("device seconds", 1.0), "flops": ("training TFLOPs", 1e12)}
"""{cost of `time_to_loss`: (label, unit)}."""


def _ends_panel(
    axes: Axes, curve: pd.DataFrame, found: dict[str, Any], sizes: Sequence[str], styles: dict[str, Any]
) -> None:
    for size in sizes:
        colour, marker = styles[size]
        mine = curve[(curve["size"] == size) & (curve["phase"] == TRUNK) & curve["valid_loss"].notna()]
        trunk = mine[mine["seed"] == mine["seed"].min()].sort_values("step")
        axes.plot(trunk["train_seconds"], trunk["valid_loss"], color=colour, linewidth=0.9, alpha=0.6)
        ends = [line for line in found["ends"] if line["size"] == size]
        for early in (False, True):
            mine = [line for line in ends if line["phase"].endswith("-early") == early]
            x, y = ([line[name] for line in mine] for name in ("train_seconds", "valid_loss"))
            filled, label = ("white", None) if early else (colour, size)
            axes.plot(
                x, y, color=colour, marker=marker, markerfacecolor=filled, linestyle="none", markersize=7, label=label
            )
    if any(line["phase"].endswith("-early") for line in found["ends"]):
        axes.plot([], [], color="0.4", marker="o", markerfacecolor="white", linestyle="none", label="stopped early")


def loss_by_size(curve: pd.DataFrame, frame: pd.DataFrame, found: dict[str, Any], *, words: Words) -> Figure:
    """Draw validation loss against device seconds, the wide grid above and the deep one below; `found` is of verdict.json.

    A grid that the study has not, or whose branches have no validation points, has no panel.
    """
    measured = {line["size"] for line in found["ends"]}
    grids = [
        (name, kind, fixed, found[name])
        for name, kind, fixed in (("wide", "width", "num_layers"), ("deep", "depth", "d_model"))
        if found[name] is not None and measured & set(found[name]["sizes"])
    ]
    figure, every = panels(max(1, len(grids)), height=4.2 if grids else 1.5)
    if not grids:
        empty(every[0], "no two sizes differ in width alone or in depth alone")
        return figure
    styles = size_style(sizes_in_order(frame))
    for axes, (name, kind, fixed, grid) in zip(every, grids, strict=True):
        _ends_panel(axes, curve, found, grid["sizes"], styles)
        axes.set(xlabel="device seconds", ylabel=words.trained_loss_axis, xscale="log", yscale="log")
        log_ticks(axes.xaxis)
        log_ticks(axes.yaxis, steps=words.loss_ticks)
        best = lowest_end(found, grid["sizes"], "seconds")
        alike = words.layers(grid[fixed]) if name == "wide" else f"width {grid[fixed]}"
        if best is not None:
            title(
                axes,
                f"By {kind} ({alike}): {best['size']} ends lowest at {MATCH_NAMES['seconds']} ({best['valid_loss']:.2f})",
            )
        legend_below(axes)
    return figure


def time_to_loss(frame: pd.DataFrame, lines: list[dict[str, Any]]) -> Figure:
    """Draw steps, device seconds and FLOPs to each loss of `time_to_loss` in verdict.json against parameters."""
    figure, every = panels(3, height=3.4)
    losses = list(dict.fromkeys(line["loss"] for line in lines))
    params = frame.groupby("size")["params_total"].max().dropna()  # none where every model of a size diverged
    lines = [line for line in lines if line["size"] in params.index]
    styles = size_style([f"{loss:.2f}" for loss in losses])
    for axes, (cost, (label, unit)) in zip(every, UNITS.items(), strict=True):
        if not lines:
            empty(axes, "no loss is reached by the trunks of two sizes")
            continue
        for loss, (colour, marker) in zip(losses, styles.values(), strict=True):
            mine = sorted((line for line in lines if line["loss"] == loss), key=lambda line: int(params[line["size"]]))
            x = [params[line["size"]] for line in mine]
            y = [float("nan") if line["censored"] else line[cost] / unit for line in mine]  # no line joins over a gap
            axes.plot(x, y, color=colour, marker=marker, markersize=6, linewidth=1.1, label=f"loss {loss:.2f}")
            ended = [line for line in mine if line["censored"]]
            axes.plot(
                [params[line["size"]] for line in ended], [line[cost] / unit for line in ended], color=colour,
                marker=marker, markersize=6, markerfacecolor="white", linestyle="none",
            )  # fmt: skip
        if any(line["censored"] for line in lines):
            axes.plot([], [], color="0.4", marker="o", markerfacecolor="white", linestyle="none", label="not reached")
        axes.set(xlabel="parameters", ylabel=label, xscale="log", yscale="log")
        log_ticks(axes.xaxis, unit=count)
        log_ticks(axes.yaxis)
        pairs = larger_took_less(lines, cost)
        title(
            axes,
            f"The larger of two sizes took fewer {label.removeprefix('training T')} in {pairs.larger} of {pairs.told} pairs",
        )
    legend_below(every[-1])
    return figure


def early_and_late(frame: pd.DataFrame, lines: list[dict[str, Any]]) -> Figure:
    """Draw the loss that one compression adds to the late branch against what it adds to the early one, of verdict.json."""
    figure, (axes,) = panels(1, height=4.6 if lines else 1.5)
    if not lines:
        empty(axes, "no recipe does to an early branch, untrained,\nwhat another does to the whole one")
        return figure
    styles = size_style(sizes_in_order(frame))
    kinds = list(dict.fromkeys(_strength(line) for line in lines))
    markers = {kind: MARKERS[number % len(MARKERS)] for number, kind in enumerate(kinds)}
    for line in lines:
        colour, marker = styles[line["size"]][0], markers[_strength(line)]
        axes.scatter(
            line["added_early"], line["added_late"], s=32, color=colour, marker=marker, edgecolor="white", zorder=2
        )
    values = [line[name] for line in lines for name in ("added_early", "added_late")]
    low, high = (1.3 if min(values) <= 0 else 0.7) * min(values), max(0.02, 1.4 * max(values))
    axes.plot([low, high], [low, high], color="0.5", linewidth=0.9, zorder=1)
    for size in dict.fromkeys(line["size"] for line in lines):
        axes.plot([], [], color=styles[size][0], marker="o", linestyle="none", label=size)
    for kind, marker in markers.items():
        axes.plot([], [], color="0.4", marker=marker, linestyle="none", label=kind)
    ticks = [tick for tick in (-0.01, 0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5) if low <= tick <= high]
    for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        scale("symlog", linthresh=0.01)
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.set(xlim=(low, high), ylim=(low, high))
    axes.set(xlabel="added to the early branch (nats)", ylabel="added to the whole budget's (nats)")
    more = sum(line["difference"] > 0 for line in lines)
    title(axes, f"Compressed alike, the longer trained model loses more in {more} of {len(lines)} cases")
    legend_below(axes)
    return figure


def _strength(line: dict[str, Any]) -> str:
    """Write what both recipes do, such as ``uniform, 4 bits``."""
    parts = [line["kind"]]
    if line["bits"] is not None:
        parts.append(f"{line['bits']} bits")
    if line["sparsity"] is not None:
        parts.append(f"{line['sparsity']:.0%} pruned")
    return ", ".join(parts)
