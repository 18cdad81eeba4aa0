"""Budgets: what they read, and that nothing is spent twice or too much."""

from __future__ import annotations

import itertools

import pytest

from pipeline.budget import Budget, Cost, Ledger
from pipeline.errors import StudyError


@pytest.mark.parametrize(
    ("text", "resource", "amount"),
    [
        ("3e13 flop", "flops", 3e13),
        ("300 s", "seconds", 300.0),
        ("5 min", "seconds", 300.0),
        ("5e6 tok", "tokens", 5e6),
        ("1000 step", "steps", 1000.0),
        ("2.5e9flops", "flops", 2.5e9),
    ],
)
def test_reads_every_unit(text: str, resource: str, amount: float) -> None:
    budget = Budget.parse(text)
    assert (budget.resource, budget.amount) == (resource, amount)
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("300", "no unit"),
        ("0 s", "positive"),
        ("-3 s", "positive"),
        ("300 parsecs", "unknown unit"),
        ("3 setp", "did you mean 'step'"),
        ("much", "not a number"),
        ("", "not a number"),
    ],
)
def test_refuses_what_is_no_budget(text: str, says: str) -> None:
    with pytest.raises(StudyError, match=says):
        Budget.parse(text)


def test_stops_before_the_step_that_would_exceed() -> None:
    budget = Budget.parse("10 s")
    assert budget.steps_within(itertools.repeat(Cost(seconds=3, steps=1))) == 3
    assert budget.steps_within(itertools.repeat(Cost(seconds=2.5, steps=1))) == 4
    assert budget.steps_within(itertools.repeat(Cost(seconds=3)), spent=Cost(seconds=8)) == 0
    assert budget.steps_within([Cost(seconds=1)] * 4) == 4


def test_rounding_of_many_small_sums_does_not_lose_the_last_step() -> None:
    assert Budget.parse("1 s").steps_within(itertools.repeat(Cost(seconds=0.1))) == 10


def test_ledger_sums_by_purpose_and_survives_json() -> None:
    ledger = Ledger()
    ledger.charge("train", Cost(flops=5, seconds=1, tokens=2, steps=1))
    ledger.charge("train", Cost(flops=5, seconds=1, tokens=2, steps=1))
    ledger.charge("teacher", Cost(flops=7))
    assert ledger.of("train") == Cost(flops=10, seconds=2, tokens=4, steps=2)
    assert ledger.total.flops == 17
    assert Ledger.from_dict(ledger.as_dict()) == ledger
    with pytest.raises(ValueError, match="unknown purpose"):
        ledger.charge("evaluation", Cost(flops=1))
