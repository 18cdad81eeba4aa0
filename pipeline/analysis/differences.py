"""The difference of two configurations, with an interval that covers training seeds and test sentences.

A seed fixes the order of the data and the draw of the weights, so two runs of one seed are paired. Differences are over
the seeds that both configurations have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.float64]
BySeed = Mapping[int, float]
"""One score a seed."""


@dataclass(frozen=True, kw_only=True)
class SeedVariance:
    """The variance over seeds of one paired difference, and the degrees of freedom it was estimated with."""

    variance: float
    degrees: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean difference with its 95 % interval and two-sided p; these are None when seeds cannot tell the variance."""

    value: float
    low: float | None
    high: float | None
    p_value: float | None
    seeds: int


def between_sizes(table: Mapping[str, BySeed]) -> SeedVariance | None:
    """Pool over sizes: twice the residual mean square of the table size x seed, both effects taken out.

    `table` holds one configuration a size: the two that are compared, and others that sharpen the estimate. This is
    the randomised block design with seeds as blocks; K sizes and S seeds give (K - 1)(S - 1) degrees of freedom (cells
    less the rank of the design where seeds are missing). It supposes one variance for all sizes. None without a degree
    of freedom.
    Source: Montgomery, Design and Analysis of Experiments, chapter 4.
    """
    cells = [(size, seed, score) for size, scores in table.items() for seed, score in scores.items()]
    sizes, seeds = (sorted({cell[part] for cell in cells}, key=str) for part in (0, 1))
    design = np.zeros((len(cells), len(sizes) + len(seeds)))
    for line, (size, seed, _) in zip(design, cells, strict=True):
        line[sizes.index(size)] = line[len(sizes) + seeds.index(seed)] = 1
    scores = np.array([score for *_, score in cells])
    degrees = len(cells) - int(np.linalg.matrix_rank(design)) if cells else 0
    if degrees < 1:
        return None
    residuals = scores - design @ np.linalg.lstsq(design, scores, rcond=None)[0]
    return SeedVariance(variance=2 * float(residuals @ residuals) / degrees, degrees=degrees)


def within_size(differences: Mapping[str, Sequence[float]]) -> SeedVariance | None:
    """Pool over sizes the variance of two recipes' difference within one size, whose seeds share their training.

    `differences` holds, for each size, the difference of the two recipes a seed; S seeds give S - 1 degrees of freedom.
    None without a degree of freedom.
    """
    squares = sum(float(np.square(np.asarray(d) - np.mean(d)).sum()) for d in differences.values() if len(d) > 1)
    degrees = sum(len(d) - 1 for d in differences.values() if len(d) > 1)
    return SeedVariance(variance=squares / degrees, degrees=degrees) if degrees else None


def compare(
    better: BySeed,
    worse: BySeed,
    *,
    resampled: FloatArray,
    components: int,
    seed_variance: SeedVariance | None,
    level: float = 0.95,
) -> Difference:
    """Return the mean over common seeds of `better` - `worse`, with a t interval.

    `resampled` (resamples,) is that same mean difference on bootstrap draws of test components, the same draws for
    both. The variance is seed variance / common seeds + the variance of `resampled`; the noise of single models on
    single sentences is in both terms, which errs on the safe side. The degrees of freedom are Satterthwaite's
    (Biometrics 1946) for a sum of two estimated variances, the bootstrap's having one less than the number of
    `components`: between the seeds' few and the sentences' many, near the former where seeds matter most.
    """
    seeds = sorted(set(better) & set(worse))
    value = float(np.mean([better[seed] - worse[seed] for seed in seeds]))
    if seed_variance is None:
        return Difference(value=value, low=None, high=None, p_value=None, seeds=len(seeds))
    of_seeds = seed_variance.variance / len(seeds)
    of_sentences = float(np.var(resampled, ddof=1))
    total = of_seeds + of_sentences
    if total == 0:
        return Difference(value=value, low=value, high=value, p_value=1.0 if value == 0 else 0.0, seeds=len(seeds))
    degrees = total**2 / (of_seeds**2 / seed_variance.degrees + of_sentences**2 / max(1, components - 1))
    half = float(stats.t.ppf((1 + level) / 2, degrees)) * total**0.5
    p_value = 2 * float(stats.t.sf(abs(value) / total**0.5, degrees))
    return Difference(value=value, low=value - half, high=value + half, p_value=p_value, seeds=len(seeds))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p-values (Scandinavian Journal of Statistics, 1979) in their order; None stays None."""
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, place) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p))
        adjusted[place] = running
    return adjusted
