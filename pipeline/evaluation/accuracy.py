"""Accuracy with its interval: a bootstrap over components of sentences, as for every other score."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.resampling import FloatArray, bootstrap_interval

_SEED = 0


def accuracy_statistics(correct: NDArray[np.bool_]) -> FloatArray:
    """Return statistics (n, 2) of what is right (n,): 1 or 0, and 1 for the sentence."""
    return np.stack([correct.astype(np.float64), np.ones(len(correct))], axis=1)


def accuracy_from_statistics(statistics: FloatArray) -> FloatArray:
    """Return the accuracy, in percent, of summed statistics (..., 2)."""
    return np.asarray(100 * statistics[..., 0] / statistics[..., 1])


def score_classes(
    correct: NDArray[np.bool_], components: NDArray[np.integer[Any]], *, resamples: int
) -> dict[str, Any]:
    """Return quality (percent), its 95 % interval and the signature, of what is right (n,) in these components (n,)."""
    interval = bootstrap_interval(
        accuracy_statistics(correct), components, accuracy_from_statistics, resamples=resamples, seed=_SEED
    )
    return {
        "quality": interval.value,
        "quality_low": interval.low,
        "quality_high": interval.high,
        "signature": f"accuracy|n:{len(correct)}|boot:{resamples}|seed:{_SEED}",
    }
