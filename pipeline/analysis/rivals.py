"""Distilled students, compressed as they would be deployed, against the best other model of at most the same bytes.

Both sides are matched in their total device seconds while the teacher's own training is left out. Counted, it only adds
to the student's side: who loses with it left out loses under every accounting, and who wins so has won only under those
that leave the total at the budget.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipeline.analysis.differences import Difference
from pipeline.analysis.measures import Measure, difference
from pipeline.budget import Budget
from pipeline.selection import BUDGET_TOLERANCE, PRIMARY_MATCH, configurations, rivals_of_students

ACCOUNTINGS = ("excluded", "amortised", "included")
"""How the teacher's own training is counted: not at all, its share of one student of the study, or whole."""


def teacher_shares(students: int) -> dict[str, float]:
    """Return, by accounting, how much of the teacher's training one of so many students answers for."""
    return dict(zip(ACCOUNTINGS, (0.0, 1 / students if students else 0.0, 1.0), strict=True))


def _side(config: pd.Series) -> dict[str, Any]:
    return {
        "config_id": str(config["config_id"]),
        "run_ids": list(config["run_ids"]),
        "params_total": int(config["params_total"]),
        "size_bytes": int(config["size_bytes"]),
        "valid_loss": float(config["valid_loss"]),
        "test_loss": float(config["test_loss"]),
        "quality": None if pd.isna(config["quality"]) else float(config["quality"]),
    }


def _totals(student: pd.DataFrame, rival: pd.DataFrame | None, *, budget: Budget, students: int) -> dict[str, Any]:
    totals = {}
    for accounting, share in teacher_shares(students).items():
        seconds, flops = (
            float((student[f"total_{unit}"] + share * student[f"teacher_training_{unit}"].fillna(0.0)).mean())
            for unit in ("seconds", "flops")
        )
        totals[accounting] = {
            "seconds": seconds,
            "flops": flops,
            "seconds_by_budget": seconds / budget.amount,
            "flops_by_rival": None if rival is None else flops / float(rival["total_flops"].mean()),
        }
    return totals


def _written(result: Difference | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {"difference": result.value, "low": result.low, "high": result.high, "seeds": result.seeds}


def winner_of(result: Difference | None, *, least: float) -> str:
    """Return ``student`` or ``rival`` for an interval without 0 and a difference of at least `least`; else ``tie``.

    Without a rival, None, nobody can win: ``infeasible``.
    """
    if result is None:
        return "infeasible"
    sure = result.low is not None and result.high is not None and not result.low <= 0 <= result.high
    if not sure or abs(result.value) < least:
        return "tie"
    return "student" if result.value > 0 else "rival"


def student_rivals(
    frame: pd.DataFrame, entry: dict[str, Any], *, quality: Measure, loss: Measure, components: int
) -> list[dict[str, Any]]:
    """Return one dict a student configuration of an assembled table, of the form of `students` in verdict.json.

    Students lacking a seed or over their budget are left out. The rival is chosen on validation loss, the difference
    taken on the test set over common seeds. Seconds are also given over the budget, FLOPs over the rival's.
    """
    configs = configurations(frame)
    here = configs[configs["match"] == PRIMARY_MATCH].set_index("config_id", drop=False)
    rows = frame[frame["match"] == PRIMARY_MATCH]
    budget = Budget.parse(entry["budgets"][PRIMARY_MATCH])
    lines = []
    for student, rival in rivals_of_students(configs).items():
        sides = [None if name is None else _side(here.loc[name]) for name in (student, rival)]
        mine = rows[rows["config_id"] == student]
        theirs = None if rival is None else rows[rows["config_id"] == rival]
        by_loss = by_quality = None
        least = 0.0
        if rival is not None and sides[1] is not None:
            by_loss = difference(loss, PRIMARY_MATCH, student, rival, components=components)
            least = loss.least(sides[1]["test_loss"])
            if all(side is not None and side["quality"] is not None for side in sides):
                by_quality = difference(quality, PRIMARY_MATCH, student, rival, components=components)
        winner = winner_of(by_loss, least=least)
        totals = _totals(mine, theirs, budget=budget, students=len(entry["students"]))
        paid = [name for name in ACCOUNTINGS if totals[name]["seconds_by_budget"] <= 1 + BUDGET_TOLERANCE]
        holds = {"student": paid, "rival": list(ACCOUNTINGS)}.get(winner, [])
        lines.append(
            {
                "student": sides[0],
                "rival": sides[1],
                "loss": _written(by_loss),
                "quality": _written(by_quality),
                "winner": winner,
                "totals": totals,
                "holds": holds,
            }
        )
    return lines


def _factors(lines: list[dict[str, Any]], accounting: str) -> str:
    values = sorted(line["totals"][accounting]["seconds_by_budget"] for line in lines)
    ends = list(dict.fromkeys(f"{value:.2f}" for value in (values[0], values[-1])))
    return f"{' to '.join(ends)} times the budget"


def students_claim(lines: list[dict[str, Any]]) -> str | None:
    """Return what `student_rivals` found, in one sentence; None where no student had a rival."""
    compared = [line for line in lines if line["rival"] is not None]
    if not compared:
        return None
    ahead, behind, tied = (
        [line for line in compared if line["winner"] == name] for name in ("student", "rival", "tie")
    )
    larger = sum(line["rival"]["params_total"] > line["student"]["params_total"] for line in compared)
    text = (
        f"Of {len(compared)} student configurations, {len(ahead)} have a lower test loss than the best other model of at "
        f"most the same bytes at the same total seconds, the teacher's own training left out, {len(behind)} a higher one, "
        f"and {len(tied)} tie; {larger} of the rivals are larger models, compressed"
    )
    if behind:
        text += "; what is behind so is behind under every accounting"
    if ahead:
        kept = {name: sum(name in line["holds"] for line in ahead) for name in ACCOUNTINGS}
        text += (
            f"; with that training counted, {kept['amortised']} of the {len(ahead)} wins stand when it is shared by the "
            f"study's students ({_factors(ahead, 'amortised')}) and {kept['included']} when it is counted whole "
            f"({_factors(ahead, 'included')})"
        )
    return f"{text}."
