"""The bootstrap against what it must satisfy: whole components, the same draws, known intervals."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from pipeline.errors import StudyError
from pipeline.evaluation.resampling import (
    bootstrap_interval,
    component_draws,
    component_sums,
    loss_from_statistics,
    loss_statistics,
    resampled_scores,
)


def test_every_draw_takes_as_many_components_as_there_are() -> None:
    draws = component_draws(np.array([7, 7, 3, 9, 3]), 50, seed=1)
    assert draws.shape == (50, 3)
    assert (draws.sum(axis=1) == 3).all()
    assert (draws == np.round(draws)).all()
    assert len(np.unique(draws, axis=0)) > 1


def test_the_same_seed_gives_the_same_draws_and_another_does_not() -> None:
    components = np.arange(40)
    assert (component_draws(components, 20, seed=3) == component_draws(components, 20, seed=3)).all()
    assert (component_draws(components, 20, seed=3) != component_draws(components, 20, seed=4)).any()


def test_each_component_is_drawn_once_on_average() -> None:
    draws = component_draws(np.arange(10), 4000, seed=0)
    assert draws.mean(axis=0) == pytest.approx(np.ones(10), abs=0.06)
    # binomial: n p (1 - p) with n = 10, p = 1 / 10
    assert draws.var(axis=0) == pytest.approx(np.full(10, 0.9), abs=0.12)


def test_sums_go_by_component_in_the_order_of_their_numbers() -> None:
    sums = component_sums(np.array([[1, 10], [2, 20], [4, 40], [8, 80]]), np.array([5, 2, 5, 2]))
    assert sums.tolist() == [[10, 100], [5, 50]]


def test_resampling_sums_equals_resampling_sentences() -> None:
    generator = np.random.default_rng(0)
    components = generator.integers(0, 12, size=30)
    statistics = loss_statistics(generator.gamma(3, size=30), generator.integers(1, 9, size=30))
    draws = component_draws(components, 5, seed=2)
    scores = resampled_scores(statistics, components, draws, loss_from_statistics)
    numbers = np.unique(components)
    for row, score in zip(draws, scores, strict=True):
        repeats = row[np.searchsorted(numbers, components)].astype(int)
        chosen = np.repeat(statistics, repeats, axis=0)
        assert score == pytest.approx(chosen[:, 0].sum() / chosen[:, 1].sum(), abs=1e-12)


def test_interval_of_a_mean_is_the_normal_one() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(2.0, 1.0, size=2000)
    interval = bootstrap_interval(
        loss_statistics(values, np.ones(2000)), np.arange(2000), loss_from_statistics, resamples=2000, seed=0
    )
    half = 1.96 * values.std() / math.sqrt(2000)
    assert interval.value == pytest.approx(values.mean(), abs=1e-12)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.2 * half)


def test_sentences_that_go_together_widen_the_interval() -> None:
    generator = np.random.default_rng(0)
    values = np.repeat(generator.normal(size=100), 10)
    statistics = loss_statistics(values, np.ones(1000))
    alone = bootstrap_interval(statistics, np.arange(1000), loss_from_statistics, seed=0)
    grouped = bootstrap_interval(statistics, np.repeat(np.arange(100), 10), loss_from_statistics, seed=0)
    widening = (grouped.high - grouped.low) / (alone.high - alone.low)
    assert widening == pytest.approx(math.sqrt(10), rel=0.15)


def test_bad_input_is_one_line() -> None:
    with pytest.raises(StudyError, match="no sentences"):
        component_draws(np.array([], dtype=np.int64), 10, seed=0)
    with pytest.raises(StudyError, match="resamples is 0"):
        component_draws(np.arange(3), 0, seed=0)
    with pytest.raises(StudyError, match="3 sentences have statistics but 4"):
        component_sums(np.ones((3, 2)), np.arange(4))
    with pytest.raises(StudyError, match="draws are over 5 components"):
        resampled_scores(np.ones((4, 2)), np.arange(4), component_draws(np.arange(5), 2, seed=0), loss_from_statistics)


def test_scores_and_resampling_do_without_torch() -> None:
    code = (
        "import sys, pipeline.evaluation.scores, pipeline.evaluation.resampling;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'ctranslate2')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
