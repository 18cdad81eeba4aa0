"""The bootstrap over components: groups of test sentences that share a side are drawn together, never split.

Sufficient statistics are resampled, never text. One set of draws serves every model, which makes the differences of two
models paired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StudyError

FloatArray = NDArray[np.float64]
Score = Callable[[FloatArray], FloatArray]
"""Summed statistics (..., k) -> scores (...)."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A score on the whole test set with a percentile interval over its sentences (not over training seeds)."""

    value: float
    low: float
    high: float


def component_draws(components: NDArray[np.integer[Any]], resamples: int, seed: int) -> FloatArray:
    """Draw components with replacement: how often each was drawn, whole numbers (resamples, n_components).

    `components` (n,) holds a component number a sentence. Column j belongs to the j-th smallest number, as in
    `component_sums`; each row sums to n_components. The same arguments give the same draws. StudyError on no sentences.
    """
    count = len(np.unique(components))
    if count == 0:
        raise StudyError("there are no sentences to resample; check the corpus's validation and test splits")
    if resamples < 1:
        raise StudyError(f"resamples is {resamples}; give at least 1")
    generator = np.random.default_rng(seed)
    draws = np.empty((resamples, count), dtype=np.float64)
    for row in draws:
        row[:] = np.bincount(generator.integers(0, count, size=count), minlength=count)
    return draws


def component_sums(statistics: NDArray[Any], components: NDArray[np.integer[Any]]) -> FloatArray:
    """Sum statistics (n, k) over each component's sentences: (n_components, k), in the order of component numbers."""
    if len(statistics) != len(components):
        raise StudyError(
            f"{len(statistics)} sentences have statistics but {len(components)} have components; "
            "evaluate on the same corpus"
        )
    numbers, position = np.unique(components, return_inverse=True)
    sums = np.zeros((len(numbers), statistics.shape[1]), dtype=np.float64)
    np.add.at(sums, position, statistics)
    return sums


def resampled_scores(
    statistics: NDArray[Any], components: NDArray[np.integer[Any]], draws: FloatArray, score: Score
) -> FloatArray:
    """Score every resample: sentence statistics (n, k) and draws (resamples, n_components) give scores (resamples,)."""
    sums = component_sums(statistics, components)
    if draws.shape[1] != len(sums):
        raise StudyError(
            f"the draws are over {draws.shape[1]} components but the sentences have {len(sums)}; draw them anew"
        )
    return score(draws @ sums)


def bootstrap_interval(
    statistics: NDArray[Any],
    components: NDArray[np.integer[Any]],
    score: Score,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the score of all sentences with its percentile interval at `level` over components.

    `statistics` (n, k) and `components` (n,) are a sentence's; `score` turns summed statistics into a score. Percentile
    bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. StudyError as in
    `component_draws`.
    """
    draws = component_draws(components, resamples, seed)
    scores = resampled_scores(statistics, components, draws, score)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    value = score(np.asarray(statistics, dtype=np.float64).sum(axis=0))
    return Interval(value=float(value), low=float(low), high=float(high))


def loss_statistics(nll: NDArray[Any], tokens: NDArray[Any]) -> FloatArray:
    """Stack summed negative log-likelihoods (n,), in nats, and token counts (n,) into statistics (n, 2)."""
    return np.stack([np.asarray(nll, dtype=np.float64), np.asarray(tokens, dtype=np.float64)], axis=1)


def loss_from_statistics(statistics: FloatArray) -> FloatArray:
    """Return the mean loss a token, in nats, of summed statistics (..., 2): every token counts once."""
    return np.asarray(statistics[..., 0] / statistics[..., 1])
