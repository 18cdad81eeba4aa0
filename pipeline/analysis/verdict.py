"""The verdict: at each byte limit, heavily compressed against lightly compressed, under both matches."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipeline.analysis.claim import claim_sentence
from pipeline.analysis.differences import Difference, holm
from pipeline.analysis.from_scratch import from_scratch
from pipeline.analysis.fronts import fronts
from pipeline.analysis.measures import Draws, Measure, difference, measure
from pipeline.analysis.rivals import student_rivals, students_claim
from pipeline.analysis.throughput import gflops_per_second
from pipeline.analysis.why import correlations, rounded
from pipeline.errors import StudyError
from pipeline.selection import CLASSES, Choice, configurations, limits_bytes, select

SIGNIFICANCE = 0.05
MATCHED = {"seconds": "device_seconds", "flops": "train_flops"}
LISTS = {"int8_rival": "limits", "first_study": "limits_first_study"}
"""The list of a match's verdict that each definition of the classes fills."""


def _side(configs: pd.DataFrame, config_id: str) -> dict[str, Any]:
    row = configs[configs["config_id"] == config_id].iloc[0]
    if pd.isna(row["quality"]):
        raise StudyError(
            f"{row['run_ids'][0]}: the quality of its configuration is needed and lacks a seed; run the translate stage"
        )
    return {
        "config_id": config_id,
        "run_ids": list(row["run_ids"]),
        "quality": float(row["quality"]),
        "valid_loss": float(row["valid_loss"]),
        "test_loss": float(row["test_loss"]),
        "compression_ratio": float(row["compression_ratio"]),
        "params_total": int(row["params_total"]),
        "size_bytes": int(row["size_bytes"]),
    }


def _outcomes(results: list[Difference | None], least: list[float]) -> list[dict[str, Any]]:
    adjusted = holm([None if result is None else result.p_value for result in results])
    outcomes = []
    for result, p_value, threshold in zip(results, adjusted, least, strict=True):
        if result is None:
            nothing = dict.fromkeys(("difference", "low", "high", "p_value", "p_value_raw", "seeds"))
            outcomes.append(nothing | {"winner": "infeasible"})
            continue
        sure = p_value is not None and p_value < SIGNIFICANCE and abs(result.value) >= threshold
        winner = ("heavy" if result.value > 0 else "light") if sure else "tie"
        outcomes.append(
            {
                "difference": result.value,
                "low": result.low,
                "high": result.high,
                "p_value": p_value,
                "p_value_raw": result.p_value,
                "seeds": result.seeds,
                "winner": winner,
            }
        )
    return outcomes


def _entries(
    here: pd.DataFrame, match: str, choices: list[Choice], measures: list[Measure], *, components: int
) -> list[dict[str, Any]]:
    def compared(choice: Choice, by: Measure) -> Difference | None:
        if choice.heavy is None or choice.light is None:
            return None
        return difference(by, match, choice.heavy, choice.light, components=components)

    sides = [
        [None if name is None else _side(here, name) for name in (choice.heavy, choice.light)] for choice in choices
    ]
    by_measure = []
    for by in measures:
        least = [by.least(light[by.column]) if light else 0.0 for _, light in sides]
        by_measure.append(_outcomes([compared(choice, by) for choice in choices], least))
    entries = []
    for choice, (heavy, light), by_quality, by_loss in zip(choices, sides, *by_measure, strict=True):
        larger = bool(heavy and light and heavy["params_total"] > light["params_total"])
        entries.append(
            {
                "limit": choice.limit,
                "unit": "bytes",
                "heavy": heavy,
                "light": light,
                **by_quality,
                "supports_train_large": larger and by_quality["winner"] == "heavy",
                "by_loss": by_loss | {"supports_train_large": larger and by_loss["winner"] == "heavy"},
                "by_size": {size: _side(here, name) for size, name in choice.by_size.items()},
            }
        )
    return entries


def build_verdict(
    frame: pd.DataFrame, entry: dict[str, Any], *, quality_draws: Draws, loss_draws: Draws, components: int
) -> dict[str, Any]:
    """Return the verdict of an assembled table as JSON data; its form is `pipeline.analysis.schema.SCHEMA`.

    `entry` is the study's report entry. Differences are positive where heavy is better: heavy - light in quality,
    light - heavy in loss. StudyError names a chosen row without quality.
    """
    configs = configurations(frame)
    limits = limits_bytes(frame, entry["limits"])
    measures = [
        measure(frame, "quality", sign=1, draws=quality_draws, threshold=entry["min_bleu"]),
        measure(
            frame,
            "test_loss",
            sign=-1,
            draws=loss_draws,
            threshold=entry["min_loss_percent"] / 100,
            relative=True,
        ),
    ]
    throughput = gflops_per_second(frame)
    matches = []
    for match in entry["matches"]:
        here = configs[configs["match"] == match]
        lists = {
            LISTS[classes]: _entries(
                here, match, select(configs, match, limits, classes=classes), measures, components=components
            )
            for classes in CLASSES
        }
        matches.append({"matched": MATCHED[match], "match": match, "budget": entry["budgets"][match], **lists})
    students = student_rivals(frame, entry, quality=measures[0], loss=measures[1], components=components)
    return {
        "study": entry["study"],
        "claim": claim_sentence(matches, quality_name=entry["quality_name"], throughput=throughput),
        "quality_name": entry["quality_name"],
        "thresholds": {
            "quality": entry["min_bleu"],
            "loss_percent": entry["min_loss_percent"],
            "p_value": SIGNIFICANCE,
        },
        "gflops_per_second": throughput,
        "matches": matches,
        "fronts": fronts(frame),
        "from_scratch": from_scratch(frame, measures[1], components=components),
        "why": correlations(rounded(frame)),
        "students_claim": students_claim(students),
        "students": students,
    }
