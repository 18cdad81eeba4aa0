"""Steps, device seconds and FLOPs until a size's trunk reaches a loss: what larger sizes need fewer of, and what not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.loss_by_size import TRUNK

LEVELS = 5
"""How many losses are looked at."""

COSTS = {"steps": "step", "seconds": "train_seconds", "flops": "train_flops"}
"""{what is counted: its column in curves.csv}."""


def trunks(curve: pd.DataFrame) -> dict[str, list[pd.DataFrame]]:
    """Return {size: the trunk of each seed}, the points of its constant rate that have a validation loss, in order."""
    points = curve[(curve["phase"] == TRUNK) & curve["valid_loss"].notna()].sort_values("step")
    result: dict[str, list[pd.DataFrame]] = {}
    for (size, _), trunk in points.groupby(["size", "seed"], sort=True):
        result.setdefault(str(size), []).append(trunk)
    return result


def first_reached(trunk: pd.DataFrame, loss: float, cost: str) -> float | None:
    """Return the `cost` (a column) at which a trunk first has a `loss`, log-linear between two points; None if it never has.

    Between the last point above the loss and the first at or below it, the logarithm of the cost is linear in the loss.
    A loss that the first point is below already was reached before anything was measured: None too.
    """
    losses, costs = trunk["valid_loss"].to_numpy(dtype=float), trunk[cost].to_numpy(dtype=float)
    below = np.flatnonzero(losses <= loss)
    if not len(below) or (below[0] == 0 and losses[0] < loss):
        return None
    after = int(below[0])
    if losses[after] == loss:
        return float(costs[after])
    share = (losses[after - 1] - loss) / (losses[after - 1] - losses[after])
    return float(np.exp(np.log(costs[after - 1]) + share * (np.log(costs[after]) - np.log(costs[after - 1]))))


def common_losses(curve: pd.DataFrame) -> list[float]:
    """Return up to `LEVELS` losses, highest first, in hundredths, that at least two sizes reach in all of their seeds.

    They are evenly spaced from the lowest first point of any trunk, below which every size's trunk begins, to the lowest
    loss that a second size still reaches. Empty where there is no such range.
    """
    by_size = trunks(curve)
    if len(by_size) < 2:
        return []
    first = min(float(trunk["valid_loss"].iloc[0]) for seeds in by_size.values() for trunk in seeds)
    reached = sorted(max(float(trunk["valid_loss"].min()) for trunk in seeds) for seeds in by_size.values())
    high, low = np.floor(100 * first) / 100, np.ceil(100 * reached[1]) / 100
    if low > high:
        return []
    return list(dict.fromkeys(round(float(loss), 2) for loss in np.linspace(high, low, LEVELS)))


def time_to_loss(curve: pd.DataFrame, sizes: Sequence[str]) -> list[dict[str, Any]]:
    """Return one dict a (loss of `common_losses`, size), as JSON data, `sizes` being in order of their parameters.

    `steps`, `seconds` and `flops` are means over seeds. Where a seed never reaches the loss the line is `censored`: the end of
    that seed's trunk stands for what it would have taken, so that the means are less than that.
    """
    by_size = trunks(curve)
    lines = []
    for loss in common_losses(curve):
        for size in sizes:
            seeds = by_size.get(size, [])
            if not seeds:
                continue
            reached = sum(first_reached(trunk, loss, "step") is not None for trunk in seeds)
            means = {}
            for name, column in COSTS.items():
                taken = [first_reached(trunk, loss, column) for trunk in seeds]
                ends = [float(trunk[column].iloc[-1]) for trunk in seeds]
                means[name] = float(
                    np.mean([end if cost is None else cost for cost, end in zip(taken, ends, strict=True)])
                )
            lines.append(
                {
                    "loss": loss,
                    "size": size,
                    "seeds": len(seeds),
                    "reached": reached,
                    "censored": reached < len(seeds),
                    **means,
                }
            )
    return lines


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs of sizes at a loss of which one is known to have taken less, and how often that was the larger one.

    `sizes` counts the pairs of sizes, each once over all losses.
    """

    larger: int
    told: int
    sizes: int


def larger_took_less(lines: Iterable[dict[str, Any]], cost: str) -> Pairs:
    """Count over the losses of `time_to_loss` the pairs of sizes that can be told apart in `cost`, a key of `COSTS`.

    A pair with one censored size is told where the other took no more than that size's trunk has; of two that took the same
    the larger took no less.
    """
    by_loss: dict[float, list[dict[str, Any]]] = {}
    for line in lines:
        by_loss.setdefault(line["loss"], []).append(line)
    larger = told = 0
    sizes: set[tuple[str, str]] = set()
    for at_loss in by_loss.values():
        for small, large in combinations(at_loss, 2):
            if small["censored"] and large["censored"]:
                continue
            if (small["censored"] and large[cost] > small[cost]) or (large["censored"] and small[cost] > large[cost]):
                continue
            told += 1
            sizes.add((small["size"], large["size"]))
            larger += bool(small["censored"] or (not large["censored"] and large[cost] < small[cost]))
    return Pairs(larger=larger, told=told, sizes=len(sizes))


def time_to_loss_sentence(lines: list[dict[str, Any]]) -> str:
    """Return how often the larger of two sizes took less to a loss, as one sentence."""
    if not lines:
        return "No loss is reached by the trunks of two sizes."
    losses = list(dict.fromkeys(line["loss"] for line in lines))
    counted = {cost: larger_took_less(lines, cost) for cost in COSTS}
    names = {"steps": "steps", "seconds": "device seconds", "flops": "FLOPs"}
    parts = [f"fewer {names[cost]} in {pairs.larger} of {pairs.told}" for cost, pairs in counted.items()]
    span = (
        f"{len(losses)} losses from {losses[0]:.2f} to {losses[-1]:.2f}"
        if len(losses) > 1
        else f"a loss of {losses[0]:.2f}"
    )
    return (
        f"Until {span} the larger of two sizes took {', '.join(parts)} pairs that can be told apart. Points on a trunk are at a "
        "constant rate, before any cooldown: they tell how fast sizes get ahead, not where they end."
    )
