"""Time to a loss, on trunks whose law is known."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.time_to_loss import (
    LEVELS,
    common_losses,
    first_reached,
    larger_took_less,
    time_to_loss,
    time_to_loss_sentence,
)

SLOPE = 0.5
SPEED = {"w32x2": 10.0, "w64x2": 8.0, "w128x2": 2.0}
"""Steps a second."""
START = {"w32x2": 5.8, "w64x2": 5.5, "w128x2": 5.0}
"""Loss after one step; it falls by `SLOPE` with each e-fold of steps."""


def trunk(size: str, seed: int = 0, *, steps: int = 800, offset: float = 0.0) -> pd.DataFrame:
    step = np.linspace(steps / 8, steps, 8)
    loss = START[size] + offset - SLOPE * np.log(step)
    cost = {"train_seconds": step / SPEED[size], "train_flops": step * 1e9}
    return pd.DataFrame({"size": size, "seed": seed, "phase": "trunk", "step": step, "valid_loss": loss} | cost)


def curve(*trunks: pd.DataFrame) -> pd.DataFrame:
    cooled = pd.DataFrame(
        [
            {
                "size": "w32x2",
                "seed": 0,
                "phase": "seconds",
                "step": 9,
                "train_seconds": 1,
                "train_flops": 1,
                "valid_loss": 0.1,
            }
        ]
    )
    return pd.concat([*trunks, cooled], ignore_index=True)


def everything() -> pd.DataFrame:
    return curve(*(trunk(size) for size in START))


def test_a_log_linear_law_is_recovered_between_points() -> None:
    for loss in (3.4, 3.0, 2.7):
        found = first_reached(trunk("w32x2"), loss, "step")
        assert found == pytest.approx(np.exp((5.8 - loss) / SLOPE), rel=1e-12)


def test_what_is_never_reached_or_was_before_the_first_point_is_none() -> None:
    assert first_reached(trunk("w32x2"), 1.0, "step") is None
    assert first_reached(trunk("w32x2"), 5.9, "step") is None
    first = float(trunk("w32x2")["valid_loss"].iloc[0])
    assert first_reached(trunk("w32x2"), first, "step") == pytest.approx(100)


def test_a_loss_that_rises_again_counts_where_it_was_first_reached() -> None:
    points = pd.DataFrame({"step": [1.0, np.e, np.e**2, np.e**3], "valid_loss": [4.0, 3.0, 3.5, 2.0]})
    assert first_reached(points, 3.25, "step") == pytest.approx(np.exp(0.75))


def test_losses_lie_where_every_trunk_has_begun_and_two_sizes_arrive() -> None:
    losses = common_losses(everything())
    lowest_first = 5.0 - SLOPE * np.log(100)
    second_last = 5.5 - SLOPE * np.log(800)
    assert len(losses) == LEVELS
    assert losses == sorted(losses, reverse=True)
    assert losses[0] <= lowest_first < losses[0] + 0.01
    assert losses[-1] - 0.01 < second_last <= losses[-1]
    assert common_losses(curve(trunk("w32x2"))) == []
    assert common_losses(everything().head(0)) == []


def test_means_are_over_seeds_and_one_that_falls_short_censors_them() -> None:
    frame = curve(trunk("w32x2", 0), trunk("w32x2", 1, offset=0.2), trunk("w64x2"), trunk("w128x2"))
    lines = {(line["loss"], line["size"]): line for line in time_to_loss(frame, list(START))}
    first, second, *_, last = common_losses(frame)
    both = lines[first, "w32x2"]
    assert (both["seeds"], both["reached"], both["censored"]) == (2, 2, False)
    expected = [np.exp((5.8 + offset - first) / SLOPE) for offset in (0.0, 0.2)]
    assert both["steps"] == pytest.approx(np.mean(expected))
    assert both["seconds"] == pytest.approx(np.mean(expected) / 10)
    assert both["flops"] == pytest.approx(np.mean(expected) * 1e9)
    short = lines[second, "w32x2"]
    assert (short["reached"], short["censored"]) == (1, True)
    assert short["steps"] == pytest.approx((np.exp((5.8 - second) / SLOPE) + 800) / 2)
    none = lines[last, "w32x2"]
    assert (none["reached"], none["censored"], none["steps"]) == (0, True, 800)
    assert {lines[last, size]["censored"] for size in ("w64x2", "w128x2")} == {False}


def test_larger_sizes_take_fewer_steps_and_more_seconds_in_this_world() -> None:
    lines = time_to_loss(everything(), list(START))
    steps, seconds = larger_took_less(lines, "steps"), larger_took_less(lines, "seconds")
    assert steps.larger == steps.told > 0
    by_loss: dict[float, list[float]] = {}
    for line in lines:
        if not line["censored"]:
            by_loss.setdefault(line["loss"], []).append(line["seconds"])
    assert all(small != large for costs in by_loss.values() for small, large in pairwise(costs))
    assert seconds.larger < seconds.told
    assert f"fewer steps in {steps.larger} of {steps.told}" in time_to_loss_sentence(lines)
    assert "at a constant rate" in time_to_loss_sentence(lines)
    assert time_to_loss_sentence([]) == "No loss is reached by the trunks of two sizes."


def line(size: str, steps: float, *, censored: bool = False) -> dict[str, Any]:
    return {"loss": 3.0, "size": size, "steps": steps, "censored": censored}


@pytest.mark.parametrize(
    ("small", "large", "counted"),
    [
        (line("a", 10), line("b", 5), (1, 1)),
        (line("a", 5), line("b", 10), (0, 1)),
        (line("a", 5), line("b", 5), (0, 1)),
        (line("a", 10, censored=True), line("b", 5), (1, 1)),  # the small one takes more than 10
        (line("a", 5, censored=True), line("b", 10), (0, 0)),  # more than 5: perhaps 6, perhaps 20
        (line("a", 5), line("b", 10, censored=True), (0, 1)),
        (line("a", 10), line("b", 5, censored=True), (0, 0)),
        (line("a", 10, censored=True), line("b", 5, censored=True), (0, 0)),
    ],
)
def test_a_censored_size_is_compared_only_as_far_as_it_went(
    small: dict[str, Any], large: dict[str, Any], counted: tuple[int, int]
) -> None:
    pairs = larger_took_less([small, large], "steps")
    assert (pairs.larger, pairs.told) == counted
