"""What of the first study's claims holds, in worlds where that is known."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.analysis.first_study import answer, claim_text, falls
from pipeline.analysis.markdown import verdict_markdown
from pipeline.analysis.schema import check_verdict
from tests.analysis.synthetic import loss_of, report_entry, shape
from tests.analysis.worlds import world

ALONE: dict[str, Any] = {"students": [], "plain_of_student": {}, "recipes": ["q8", "q4", "q3", "p50", "p90"]}


def claims(verdict: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["claim"]: one for one in verdict["first_study"]}


@pytest.mark.parametrize(
    ("bears_out", "of", "given"),
    [
        (8, 10, "yes"),
        (2, 10, "no"),
        (5, 10, "in part"),
        (0, 0, "not known"),
        (7.9, 10, "in part"),
        (2.1, 10, "in part"),
    ],
)
def test_answers_are_shares(bears_out: float, of: float, given: str) -> None:
    assert answer(bears_out, of) == given


@pytest.mark.parametrize(
    ("tau", "given"),
    [
        (-0.7, "yes"), (-0.5, "in part"), (-0.1, "not told apart"), (0.1, "not told apart"), (0.5, "no"), (1.0, "no"),
    ],
)  # fmt: skip
def test_what_rises_does_not_fall_in_part(tau: float, given: str) -> None:
    assert falls(tau) == given


def test_every_claim_has_its_answer_and_its_numbers() -> None:
    verdict, _ = world(entry=report_entry(**ALONE))
    check_verdict(verdict)
    found = claims(verdict)
    assert [one["answer"] for one in verdict["first_study"]][2:6] == ["yes", "not known", "yes", "not known"]
    # w128x2 and w128x4 alone differ in depth
    assert found["Deeper models lose less by pruning"]["evidence"].endswith(
        "; 1 pair of sizes, of which an answer needs 3"
    )
    assert found["Wider models lose less by rounding"]["evidence"].endswith(
        "\u22121.00 at 3 bits (36 pairs); 6 pairs of sizes"
    )
    assert "at equal sparsity (72 pairs)" in found["Wider models lose less by pruning"]["evidence"]
    assert (
        "cases, each two sizes at a loss that their trunks reach (10 pairs of sizes)"
        in found["Larger sizes reach a loss in fewer steps"]["evidence"]
    )
    assert "From an equal pretraining loss sizes finetune equally well" not in found
    for one in verdict["first_study"]:
        assert claim_text(one) in verdict_markdown(verdict)
        assert f"{one['claim']}: {one['answer']}; {one['evidence']}." in claim_text(one)


def test_where_the_verdict_disagrees_it_says_why() -> None:
    def destroyed(match: str, size: str, recipe: str) -> float:
        return loss_of(match, size, "fp32") + (0.0 if recipe in ("fp32", "q8") else 1.0)

    verdict, _ = world(destroyed, entry=report_entry(**ALONE), noise=1e-5)
    claim = claims(verdict)[
        "A larger model, heavily compressed, beats a lightly compressed one of at most the same bytes"
    ]
    assert claim["answer"] == "no"
    assert claim["evidence"].startswith(
        "of the limits that have a winner, by BLEU at 0 of 8 and by test loss at 0 of 8 at equal device seconds (8 byte limits); by"
    )
    assert "has a lower test loss in 2 of 4 pairs (w128x2 the lowest); 8 bits add 0.000 nats" in claim["because"]
    assert "mildest heavy recipe 1.000;" in claim["because"]


def test_a_claim_that_holds_needs_no_reason() -> None:
    """Rounding and pruning cost nothing here, and every size is far ahead of the smaller ones."""
    verdict, _ = world(
        lambda match, size, recipe: 9 - shape(size).d_model ** 0.3, entry=report_entry(**ALONE), noise=1e-5
    )
    claim = verdict["first_study"][-1]
    assert claim["answer"] == "yes"
    assert claim["because"] is None
    assert claim_text(claim).endswith("at equal training FLOPs (8 byte limits).")


def test_where_every_limit_ties_nothing_is_known() -> None:
    verdict, _ = world(lambda match, size, recipe: 3.0, entry=report_entry(**ALONE))
    claim = verdict["first_study"][-1]
    assert (claim["answer"], claim["because"]) == ("not known", None)
    assert claim["evidence"].startswith("of the limits that have a winner, by BLEU at 0 of 0")


def test_without_two_sizes_nothing_is_known_of_training() -> None:
    verdict, _ = world(entry=report_entry(**(ALONE | {"sizes": ["w64x2"]})))
    check_verdict(verdict)
    assert [one["answer"] for one in verdict["first_study"]] == ["not known"] * 7
    assert verdict["time_to_loss"] == []
    assert verdict["loss_by_size"]["wide"] is None
    assert [one["because"] for one in verdict["first_study"]] == [None] * 7
    assert verdict["equal_pretraining_loss"] is verdict["what_pretraining_brought"] is None
