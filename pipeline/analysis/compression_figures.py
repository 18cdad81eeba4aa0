"""Figures of compression: quality against bytes with the Pareto front, and what each compression costs."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from pipeline.analysis.figure_style import LOSS_STEPS, empty, legend_below, log_ticks, panels, size_style, title
from pipeline.analysis.pareto import pareto_front
from pipeline.analysis.training_figures import MATCH_NAMES, sizes_in_order
from pipeline.selection import configurations

METHOD_MARKERS = {"none": "o", "quantize": "s", "prune": "^", "prune+quantize": "D"}


def bytes_against(frame: pd.DataFrame, limits: list[int], *, column: str, quality_name: str) -> Figure:
    """Draw every configuration's `column` (test_loss or quality) against its bytes, by match; limits are dotted lines.

    Losses are means over seeds; quality is the first seed's: a size's whole curve is translated with that one alone.
    """
    lower = column == "test_loss"
    first = frame["seed"] == frame.groupby("size")["seed"].transform("min")
    configs = configurations(frame if lower else frame[first])
    configs = configs[configs["eligible"] & (configs["method"] != "distill") & configs[column].notna()]
    matches = list(dict.fromkeys(configs["match"]))
    figure, every = panels(max(1, len(matches)), height=4.7)
    styles = size_style(sizes_in_order(frame))
    if not matches:
        empty(every[0], "nothing was measured")
    for axes, match in zip(every, matches, strict=False):
        here = configs[configs["match"] == match].reset_index(drop=True)
        megabytes = here["size_bytes"].astype(float) / 1e6
        for limit in limits:
            axes.axvline(limit / 1e6, color="0.6", linestyle=":", linewidth=0.8, zorder=0)
        for size, (colour, _) in styles.items():
            for method, marker in METHOD_MARKERS.items():
                mine = (here["size"] == size) & (here["method"] == method)
                axes.scatter(
                    megabytes[mine],
                    here.loc[mine, column],
                    s=30,
                    color=colour,
                    marker=marker,
                    edgecolor="white",
                    linewidth=0.4,
                )
        front = here[pareto_front(megabytes, here[column] if lower else -here[column])].sort_values("size_bytes")
        axes.step(front["size_bytes"] / 1e6, front[column], where="post", color="0.25", linewidth=1.2, zorder=1)
        for size, (colour, _) in styles.items():
            axes.plot([], [], color=colour, marker="o", linestyle="none", label=size)
        for method, marker in METHOD_MARKERS.items():
            if (here["method"] == method).any():
                axes.plot(
                    [], [], color="0.4", marker=marker, linestyle="none", label={"none": "fp32"}.get(method, method)
                )
        axes.plot([], [], color="0.25", linewidth=1.2, label="Pareto front")
        axes.plot([], [], color="0.6", linestyle=":", label="limits")
        axes.set(xscale="log", xlabel="file (MB)", ylabel="test loss (nats a token)" if lower else quality_name)
        if lower:
            axes.set_yscale("log")
            log_ticks(axes.yaxis, steps=LOSS_STEPS)
        log_ticks(axes.xaxis)
        compressed = int((front["method"] != "none").sum())
        title(axes, f"At {MATCH_NAMES[str(match)]} {compressed} of {len(front)} on the Pareto front are compressed")
        legend_below(axes)
    return figure


def loss_added(frame: pd.DataFrame) -> Figure:
    """Draw the validation loss that quantization and pruning add to fp32, by size, on the primary match."""
    configs = configurations(frame)
    match = "seconds" if (configs["match"] == "seconds").any() else str(configs["match"].iloc[0])
    configs = configs[(configs["match"] == match) & configs["valid_loss"].notna()]
    dense = configs[configs["method"] == "none"].set_index("size")["valid_loss"]
    figure, both = panels(2)
    parts = (("quantize", "bits", "bits a weight", True), ("prune", "sparsity", "share of weights pruned", False))
    for axes, (method, column, label, harder_is_less) in zip(both, parts, strict=True):
        rows = configs[(configs["method"] == method) & configs["size"].isin(dense.index)].copy()
        if rows.empty:
            empty(axes, f"no recipe of method {method} in this study")
            continue
        rows["added"] = rows["valid_loss"].to_numpy() - dense[rows["size"]].to_numpy()
        axes.axhline(0, color="0.5", linewidth=0.8)
        for size, (colour, marker) in size_style(sizes_in_order(frame)).items():
            mine = rows[rows["size"] == size].sort_values(column)
            if len(mine):
                axes.plot(mine[column], mine["added"], color=colour, marker=marker, label=size)
        levels = sorted(rows[column].unique())
        axes.set_xticks(levels, [f"{level:g}" for level in levels])
        axes.set(xlabel=label, ylabel="validation loss added (nats)")
        hardest = levels[0] if harder_is_less else levels[-1]
        at = rows[rows[column] == hardest].set_index("size")["added"]
        order = [size for size in sizes_in_order(frame) if size in at.index]
        level = f"{hardest:g} bits" if method == "quantize" else f"{hardest:.0%} pruned weights"
        title(
            axes,
            f"{level} add {at[order[0]]:.2f} nats to {order[0]}, {at[order[-1]]:.2f} to {order[-1]}",
        )
        legend_below(axes)
    return figure
