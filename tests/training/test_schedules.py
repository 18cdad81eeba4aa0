"""Schedules: warm-up, constant, cooldown to zero; and the learning-rate rule."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pipeline.learning_rates import peak_rate
from pipeline.study import LearningRate
from pipeline.training.schedules import cooldown, decay_start, linear_to_zero, trunk, warm_and_linear


def test_the_trunk_warms_up_and_stays() -> None:
    rates = [trunk(step, warmup_steps=4) for step in range(10)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == [1.0] * 5


def test_a_branch_follows_the_trunk_then_falls_towards_zero() -> None:
    shape = {"warmup_steps": 4, "total_steps": 100, "decay_fraction": 0.2}
    start = decay_start(100, decay_fraction=0.2)
    assert start == 80
    assert all(cooldown(step, **shape) == trunk(step, warmup_steps=4) for step in range(start))
    falling = [cooldown(step, **shape) for step in range(start, 100)]
    assert all(a > b for a, b in pairwise(falling))
    assert 0 < falling[-1] < 0.05


def test_recovery_falls_linearly() -> None:
    assert [linear_to_zero(step, total_steps=4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_finetuning_warms_up_then_falls_linearly_towards_zero() -> None:
    rates = [warm_and_linear(step, warmup_steps=3, total_steps=8) for step in range(8)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.8, 0.6, 0.4, 0.2])
    assert [warm_and_linear(step, warmup_steps=0, total_steps=4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("warmup_steps", [1, 2, 3])
def test_however_short_it_is_no_step_of_finetuning_is_without_a_rate(warmup_steps: int) -> None:
    rates = [warm_and_linear(step, warmup_steps=warmup_steps, total_steps=3) for step in range(3)]
    assert all(0 < rate <= 1 for rate in rates)


def test_the_rule_interpolates_between_tuned_widths_and_is_constant_beyond() -> None:
    rule = LearningRate(tuned={32: 8e-3, 128: 2e-3}, depth_exponent=0.5)
    assert peak_rate(rule, d_model=32, num_layers=2) == pytest.approx(8e-3)
    assert peak_rate(rule, d_model=64, num_layers=2) == pytest.approx(4e-3)
    assert peak_rate(rule, d_model=16, num_layers=2) == pytest.approx(8e-3)
    assert peak_rate(rule, d_model=512, num_layers=2) == pytest.approx(2e-3)
    assert peak_rate(rule, d_model=32, num_layers=8) == pytest.approx(4e-3)
