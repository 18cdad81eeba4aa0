"""Pareto fronts: what nothing else beats on both counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pareto_front(cost: ArrayLike, loss: ArrayLike) -> NDArray[np.bool_]:
    """Tell which points (n,) are on the front: no other costs no more and loses no more, one of the two strictly less.

    Points that are equal in both are on the front together; a NaN in either never is.
    """
    costs, losses = np.asarray(cost, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    on_front = np.zeros(len(costs), dtype=bool)
    best = np.inf
    order: NDArray[Any] = np.lexsort((losses, costs))
    for i in order:
        if np.isnan(costs[i]) or np.isnan(losses[i]):
            continue
        equal = [j for j in order if costs[j] == costs[i] and losses[j] == losses[i] and on_front[j]]
        if losses[i] < best or equal:
            on_front[i] = True
            best = min(best, losses[i])
    return on_front
