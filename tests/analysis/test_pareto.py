"""The Pareto front against a brute-force definition."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analysis.pareto import pareto_front


def brute_force(cost: np.ndarray, loss: np.ndarray) -> list[bool]:
    def beaten(i: int) -> bool:
        return any(
            cost[j] <= cost[i] and loss[j] <= loss[i] and (cost[j] < cost[i] or loss[j] < loss[i])
            for j in range(len(cost))
        )

    return [not beaten(i) for i in range(len(cost))]


@pytest.mark.parametrize("seed", range(20))
def test_front_is_what_nothing_beats(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost, loss = rng.integers(0, 8, size=(2, 30)).astype(float)  # few values, so that there are ties
    assert pareto_front(cost, loss).tolist() == brute_force(cost, loss)


def test_unmeasured_points_are_never_on_the_front() -> None:
    assert pareto_front([1.0, 2.0, np.nan], [np.nan, 1.0, 0.0]).tolist() == [False, True, False]
    assert pareto_front([], []).tolist() == []
