"""Figures of how much compression a size bears: the test loss that fewer bits and fewer weights add."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.analysis.damage import added_to_dense, one_grid, whole_budget
from pipeline.analysis.figure_style import empty, legend_below, panels, size_style, title
from pipeline.analysis.grids import sizes_in_order
from pipeline.analysis.wording import number
from pipeline.selection import PRIMARY_MATCH

ROUNDING_LINES = {"uniform": ("round to nearest", "-"), "gptq": ("GPTQ", "--"), "qat": ("QAT", ":")}
PRUNING_LINES = {"magnitude+finetune": ("in rounds, recovered", "-"), "magnitude": ("one shot", ":")}

LINEAR_BELOW = 0.1
"""Nats: the axis of losses added is linear below it, logarithmic above; smaller ones are written in three digits."""


def robustness(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the mean test loss added a (kind, size, level) under the primary match, with its number of `seeds`.

    Every seed is compared with its own fp32 model, so that a level that one seed alone has is drawn against that seed.
    `bits` levels have one grid a row of every matrix; `sparsity` levels are neither quantized nor smaller in shape.
    """
    rows = frame.assign(added=added_to_dense(frame), level=frame["bits"].astype("float64"))
    rows = rows[(rows["match"] == PRIMARY_MATCH) & rows["added"].notna() & whole_budget(rows)]
    rounded = one_grid(rows) & rows["kind"].isin(ROUNDING_LINES)
    pruned = rows["kind"].isin(PRUNING_LINES)
    rows["level"] = rows["level"].where(~pruned, rows["sparsity"].round(2))
    rows = rows[rounded | pruned]
    rows = rows.drop_duplicates(["kind", "size", "level", "seed"])
    grouped = rows.groupby(["kind", "size", "level"], sort=False)["added"]
    return pd.DataFrame({"added": grouped.mean(), "seeds": grouped.size()}).reset_index()


def _nats(value: float, digits: int) -> str:
    """Write a loss; what rounds to nothing has no sign."""
    return number(round(float(value), digits) + 0.0, digits)


def _panel(
    axes: Axes, levels: pd.DataFrame, lines: dict[str, tuple[str, str]], sizes: list[str], *, bits: bool
) -> None:
    styles = size_style(sizes)
    axes.axhline(0, color="0.5", linewidth=0.8)
    for kind, (_, line) in lines.items():
        for size, (colour, marker) in styles.items():
            mine = levels[(levels["kind"] == kind) & (levels["size"] == size)].sort_values("level")
            filled = colour if kind == next(iter(lines)) else "white"
            axes.plot(
                mine["level"], mine["added"], color=colour, marker=marker, markerfacecolor=filled, linestyle=line,
                markersize=5, linewidth=1.2,
            )  # fmt: skip
    for size, (colour, marker) in styles.items():
        if (levels["size"] == size).any():
            axes.plot([], [], color=colour, marker=marker, label=size)
    for kind, (name, line) in lines.items():
        if (levels["kind"] == kind).any():
            filled = "0.4" if kind == next(iter(lines)) else "white"
            axes.plot([], [], color="0.4", linestyle=line, marker="o", markerfacecolor=filled, label=name)
    ticks = sorted(levels["level"].unique())
    least, most = float(levels["added"].min()), float(levels["added"].max())
    if most > LINEAR_BELOW:  # below it the axis is linear, and its ticks follow the data
        axes.set_yscale("symlog", linthresh=LINEAR_BELOW)
        axes.set_yticks([0, 0.05, 0.1, 0.2, 0.5, 1, 2, 5], ["0", "0.05", "0.1", "0.2", "0.5", "1", "2", "5"])
    top = max(1.2 * most, 1e-3)
    axes.set_ylim(min(1.2 * least, -0.04 * top), top)
    axes.set_xticks(ticks, [f"{level:g}" if bits else f"{100 * level:.0f}" for level in ticks])
    axes.set(xlabel="bits a weight" if bits else "weights pruned (%)", ylabel="test loss added (nats)")
    main = levels[levels["kind"] == next(iter(lines))]
    if len(main):
        hardest = main["level"].min() if bits else main["level"].max()
        at = main[main["level"] == hardest].set_index("size")["added"]
        order = [size for size in sizes if size in at.index]
        level = f"{hardest:g} bits" if bits else f"{hardest:.0%} pruned weights"
        digits = 2 if at[[order[0], order[-1]]].abs().min() >= LINEAR_BELOW else 3
        many = f", {_nats(at[order[-1]], digits)} to {order[-1]}" if len(order) > 1 else ""
        title(axes, f"{level} add {_nats(at[order[0]], digits)} nats to {order[0]}{many}")
    legend_below(axes)


def loss_added(frame: pd.DataFrame) -> Figure:
    """Draw the test loss that quantization and pruning add to each size's fp32 model, on the primary match."""
    levels = robustness(frame)
    figure, both = panels(2, height=4.2)
    for axes, lines, bits in zip(both, (ROUNDING_LINES, PRUNING_LINES), (True, False), strict=True):
        mine = levels[levels["kind"].isin(lines)]
        if mine.empty:
            empty(axes, f"no recipe of this study {'only rounds' if bits else 'only masks'}")
        else:
            _panel(axes, mine, lines, sizes_in_order(frame), bits=bits)
    return figure
