"""Intervals on data whose truth is known: coverage under the null, power off it, corrections computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.differences import Difference, SeedVariance, between_sizes, compare, holm, within_size


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 are 0.04, 0.06, 0.06, 0.04; the running maximum is taken
    assert holm([0.04, 0.01, None, 0.03, 0.02]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([None]) == [None]
    assert holm([]) == []


def test_between_sizes_is_the_two_way_analysis_of_variance() -> None:
    table = {"a": {0: 1.0, 1: 2.0, 2: 4.0}, "b": {0: 3.0, 1: 3.0, 2: 6.0}}
    pooled = between_sizes(table)
    differences = np.array([2.0, 1.0, 2.0])
    assert pooled is not None
    assert (pooled.variance, pooled.degrees) == (pytest.approx(differences.var(ddof=1)), 2)


def test_between_sizes_ignores_what_size_and_seed_explain() -> None:
    seeds, sizes = np.array([0.0, 5.0, -3.0]), {"a": 10.0, "b": 20.0, "c": -4.0}
    pooled = between_sizes({size: {s: mean + seeds[s] for s in range(3)} for size, mean in sizes.items()})
    assert pooled is not None
    assert (pooled.variance, pooled.degrees) == (pytest.approx(0, abs=1e-20), 4)


def test_sizes_of_one_seed_add_no_degree_of_freedom() -> None:
    table = {"a": {0: 1.0, 1: 2.0, 2: 4.0}, "b": {0: 3.0, 1: 3.0, 2: 6.0}}
    alone, beside = between_sizes(table), between_sizes(table | {"c": {0: 9.0}})
    assert alone is not None
    assert beside is not None
    assert (beside.variance, beside.degrees) == (pytest.approx(alone.variance), alone.degrees)
    assert between_sizes({"a": {0: 1.0}, "b": {0: 2.0}}) is None
    assert between_sizes({}) is None


def test_within_size_pools_over_sizes() -> None:
    pooled = within_size({"a": [1.0, 3.0], "b": [0.0, 0.0, 3.0], "c": [7.0]})
    assert pooled == SeedVariance(variance=(2.0 + 6.0) / 3, degrees=3)
    assert within_size({"a": [1.0]}) is None


def test_degrees_of_freedom_lie_between_seeds_and_sentences() -> None:
    resampled = np.random.default_rng(0).normal(0, 1e-9, size=200)
    result = compare({0: 2.0, 1: 2.0}, {0: 1.0, 1: 1.0}, resampled=resampled, components=50,
                     seed_variance=SeedVariance(variance=0.5, degrees=4))  # fmt: skip
    half = stats.t.ppf(0.975, 4) * (0.5 / 2) ** 0.5
    assert (result.value, result.low, result.high) == pytest.approx((1.0, 1 - half, 1 + half))


def test_without_a_seed_variance_there_is_no_interval() -> None:
    result = compare({0: 2.0}, {0: 1.5}, resampled=np.zeros(10), components=50, seed_variance=None)
    assert result == Difference(value=0.5, low=None, high=None, p_value=None, seeds=1)


def test_only_common_seeds_are_compared() -> None:
    result = compare({0: 2.0, 1: 9.0}, {0: 1.5}, resampled=np.zeros(10), components=50, seed_variance=None)
    assert (result.value, result.seeds) == (0.5, 1)


def simulated(
    rng: np.random.Generator, *, truth: float, seed_sd: float, sentence_sd: float, sizes: int = 4
) -> Difference:
    """Return the difference of the first two of `sizes` sizes on a world of 3 seeds and 60 components."""
    seeds, components = 3, 60
    means = rng.normal(0, 1, size=sizes)
    means[1] = means[0] - truth
    block = rng.normal(0, 0.5, size=seeds)
    noise = rng.normal(0, seed_sd, size=(sizes, seeds))
    sentences = rng.normal(0, sentence_sd, size=(sizes, components))  # how hard a size finds a sentence
    scores = (means[:, None] + block + noise)[:, :, None] + sentences[:, None, :]
    table = {str(k): {s: float(scores[k, s].mean()) for s in range(seeds)} for k in range(sizes)}
    draws = rng.multinomial(components, np.full(components, 1 / components), size=200) / components
    resampled = draws @ (scores[0] - scores[1]).mean(axis=0)
    return compare(
        table["0"], table["1"], resampled=resampled, components=components, seed_variance=between_sizes(table)
    )


@pytest.mark.parametrize(("seed_sd", "sentence_sd"), [(0.1, 0.0), (0.1, 0.5), (0.01, 0.8)])
def test_false_positives_are_as_rare_as_promised(seed_sd: float, sentence_sd: float) -> None:
    rng = np.random.default_rng(7)
    worlds = [simulated(rng, truth=0.0, seed_sd=seed_sd, sentence_sd=sentence_sd) for _ in range(500)]
    rate = np.mean([world.p_value is not None and world.p_value < 0.05 for world in worlds])
    assert 0.025 <= rate <= 0.08
    missed = np.mean([not (world.low or 0) <= 0.0 <= (world.high or 0) for world in worlds])
    assert missed == rate


def test_a_true_difference_is_found_and_covered() -> None:
    rng = np.random.default_rng(3)
    worlds = [simulated(rng, truth=1.0, seed_sd=0.1, sentence_sd=0.5) for _ in range(200)]
    assert np.mean([(world.p_value or 1) < 0.05 for world in worlds]) > 0.95
    covered = np.mean([(world.low or 0) <= 1.0 <= (world.high or 0) for world in worlds])
    assert 0.9 <= covered <= 0.99
