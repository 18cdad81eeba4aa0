"""What configurations are compared by: test loss and quality, each with its seeds, its resamples and its threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.analysis.differences import BySeed, Difference, SeedVariance, between_sizes, compare, within_size
from pipeline.errors import StudyError

Draws = Callable[[str], NDArray[np.float64]]
"""run_id -> the model's score on every bootstrap draw, (resamples,)."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A score on the test set, signed so that more is better."""

    column: str
    sign: int
    draws: Draws
    threshold: float
    relative: bool
    sizes: list[str]
    scores: dict[tuple[str, str], BySeed]
    """(match, config_id) -> signed score a seed, of the ok rows that have one."""
    run_ids: dict[tuple[str, str], dict[int, str]]
    """(match, config_id) -> run_id a seed, of every row."""

    def least(self, light: float) -> float:
        """Return the smallest difference that can win, given light's unsigned score."""
        return self.threshold * light if self.relative else self.threshold


def measure(
    frame: pd.DataFrame, column: str, *, sign: int, draws: Draws, threshold: float, relative: bool = False
) -> Measure:
    """Read one measure out of an assembled table; a `relative` threshold is a fraction of light's score."""
    scores: dict[tuple[str, str], dict[int, float]] = {}
    run_ids: dict[tuple[str, str], dict[int, str]] = {}
    columns = ("match", "config_id", "seed", "run_id", "status", column)
    for match, config_id, seed, run_id, status, score in zip(*(frame[name] for name in columns), strict=True):
        run_ids.setdefault((match, config_id), {})[int(seed)] = run_id
        if status == "ok" and pd.notna(score):
            scores.setdefault((match, config_id), {})[int(seed)] = sign * float(score)
    return Measure(
        column=column,
        sign=sign,
        draws=draws,
        threshold=threshold,
        relative=relative,
        sizes=[str(size) for size in frame["size"].unique()],
        scores=dict(scores),
        run_ids=run_ids,
    )


def _needed(measure: Measure, match: str, config_id: str) -> BySeed:
    scores = measure.scores.get((match, config_id), {})
    for seed, run_id in measure.run_ids[match, config_id].items():
        if seed not in scores:
            raise StudyError(
                f"{run_id}: its {measure.column} is needed and was not measured; run the stages that measure, then report"
            )
    return scores


def _seed_variance(measure: Measure, match: str, heavy: str, light: str) -> SeedVariance | None:
    heavy_size, light_size = heavy.split("/")[0], light.split("/")[0]
    if heavy_size == light_size:
        pairs: dict[str, list[float]] = {}
        recipes = [name.split("/")[1] for name in (heavy, light)]
        for size in measure.sizes:
            first, second = (measure.scores.get((match, f"{size}/{recipe}"), {}) for recipe in recipes)
            pairs[size] = [first[seed] - second[seed] for seed in sorted(set(first) & set(second))]
        pooled = within_size(pairs)
        if pooled is not None:
            return pooled
    # One size of one seed: the spread between sizes is an upper bound, for there the noise of training does not cancel.
    # A student is a line of its own beside the plain runs of its size.
    compared = {} if heavy_size == light_size else {heavy_size: heavy, light_size: light}
    lines = {size: f"{size}/fp32" for size in measure.sizes} | compared
    table = {size: measure.scores.get((match, config_id), {}) for size, config_id in lines.items()}
    return between_sizes({size: scores for size, scores in table.items() if scores})


def difference(measure: Measure, match: str, heavy: str, light: str, *, components: int) -> Difference:
    """Return the difference of two configurations on the test set; positive favours heavy, whatever the measure.

    The seed variance is pooled over sizes: with the dense rows of the other sizes when two sizes are compared, over the
    same two recipes of every size when one size is compared with itself. StudyError names a row that lacks the measure.
    """
    scores = [_needed(measure, match, name) for name in (heavy, light)]
    runs = [measure.run_ids[match, name] for name in (heavy, light)]
    seeds = sorted(set(scores[0]) & set(scores[1]))
    if not seeds:
        raise StudyError(f"{heavy} and {light} have no seed in common under match {match}; give their sizes more seeds")
    resampled = np.mean([measure.draws(runs[0][seed]) - measure.draws(runs[1][seed]) for seed in seeds], axis=0)
    return compare(
        scores[0],
        scores[1],
        resampled=measure.sign * resampled,
        components=components,
        seed_variance=_seed_variance(measure, match, heavy, light),
    )
