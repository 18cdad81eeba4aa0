"""Distilled students beside plain runs of the same size and total budget."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipeline.analysis.rivals import teacher_shares
from pipeline.run_id import parse_run_id

TEACHINGS = {
    "plain": "plain",
    "word": "word level",
    "sequence": "sequence level",
    "both": "both levels",
    "wordinit": "word level, begun from the teacher",
    "sequenceinit": "sequence level, begun from the teacher",
    "bothinit": "both levels, begun from the teacher",
}
"""What a student learned from, as readers are told; in the order in which they are shown."""


def students_table(frame: pd.DataFrame, entry: dict[str, Any]) -> pd.DataFrame:
    """Return one line a (size, teaching) of fp32 rows: means over the seeds that have students; empty without students.

    `total_seconds` holds the student's updates, the teacher's passes and its decoding, not the teacher's own training.
    `amortised_seconds` adds that training divided by the number of students of the study, `included_seconds` all of it;
    the same for FLOPs. Differences are to the plain runs of the same seeds, positive where the student is better.
    """
    table = frame.set_index("run_id")
    parts: dict[tuple[str, str], dict[str, list[pd.Series]]] = {}
    for key in entry["students"]:
        student = table.loc[f"{key}-seconds-fp32"]
        plain = table.loc[f"{entry['plain_of_student'][key]}-seconds-fp32"]
        identity = parse_run_id(f"{key}-seconds-fp32")
        if student["status"] == "ok":
            pairs = parts.setdefault((identity["size"], identity["teaching"]), {"rows": [], "plain": []})
            pairs["rows"].append(student)
            pairs["plain"].append(plain)
        if plain["status"] == "ok":
            beside = parts.setdefault((identity["size"], "plain"), {"rows": [], "plain": []})
            if plain["seed"] not in [row["seed"] for row in beside["rows"]]:
                beside["rows"].append(plain)
    lines = [_line(size, teaching, pairs, students=len(entry["students"])) for (size, teaching), pairs in parts.items()]
    order = list(TEACHINGS)
    lines.sort(key=lambda line: (line["params_total"], line["size"], order.index(line["teaching"])))
    return pd.DataFrame(lines)


def _line(size: str, teaching: str, pairs: dict[str, list[pd.Series]], *, students: int) -> dict[str, Any]:
    rows = pd.DataFrame(pairs["rows"])
    line: dict[str, Any] = {"size": size, "teaching": teaching, "seeds": len(rows)}
    line |= {name: float(rows[name].astype(float).mean()) for name in _MEANS}
    line["quality"] = _mean(rows["quality"])
    line["within_budget"] = bool(rows["within_budget"].fillna(True).all())
    for unit in ("seconds", "flops"):
        training = rows[f"teacher_training_{unit}"].astype(float).fillna(0.0)
        for accounting, share in teacher_shares(students).items():
            name = f"{'total' if accounting == 'excluded' else accounting}_{unit}"
            line[name] = float((rows[f"total_{unit}"].astype(float) + share * training).mean())
    plain = pd.DataFrame(pairs["plain"])
    for name, column, sign in (("loss_gain", "test_loss", -1), ("quality_gain", "quality", 1)):
        line[name] = sign * (_mean(rows[column]) - _mean(plain[column])) if len(plain) else float("nan")
    return line


def _mean(values: pd.Series) -> float:
    """Return the mean, and nothing where a value is missing: a mean over what is there would be of other seeds."""
    return float(values.astype(float).mean(skipna=False))


_MEANS = ("params_total", "valid_loss", "test_loss", "teacher_seconds", "decode_seconds")
