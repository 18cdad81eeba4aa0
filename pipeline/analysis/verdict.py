"""The verdict: at each limit of bytes and of latency, heavily compressed against lightly compressed, under both matches."""

from __future__ import annotations

import functools
from typing import Any

import pandas as pd

from pipeline.analysis.checks import first_study_checks
from pipeline.analysis.claim import claim_sentence
from pipeline.analysis.equal_pretraining_loss import Finetunings
from pipeline.analysis.from_scratch import from_scratch
from pipeline.analysis.fronts import fronts
from pipeline.analysis.ladder import MATCHED, SIGNIFICANCE, described_side, ladder
from pipeline.analysis.latency_claim import latency_claim
from pipeline.analysis.latency_limits import LATENCY_TOLERANCE, latency_verdict, timed_settings
from pipeline.analysis.measures import Draws, measure
from pipeline.analysis.rivals import student_rivals, students_claim
from pipeline.analysis.throughput import gflops_per_second
from pipeline.analysis.why import correlations, rounded
from pipeline.errors import StudyError
from pipeline.selection import CLASSES, configurations, limits_bytes, select

LISTS = {"int8_rival": "limits", "first_study": "limits_first_study"}
"""The list of a match's verdict that each definition of the classes fills."""


SCORED_BY = {"translation": "translate", "classification": "evaluate"}
"""{task: the stage that measures a row's quality}."""


def _side(configs: pd.DataFrame, config_id: str, *, task: str) -> dict[str, Any]:
    row = configs[configs["config_id"] == config_id].iloc[0]
    if pd.isna(row["quality"]):
        raise StudyError(
            f"{row['run_ids'][0]}: the quality of its configuration is needed and lacks a seed; run the {SCORED_BY[task]} stage"
        )
    return described_side(row) | {"quality": float(row["quality"])}


def build_verdict(
    frame: pd.DataFrame,
    engines: pd.DataFrame,
    entry: dict[str, Any],
    *,
    curve: pd.DataFrame,
    quality_draws: Draws,
    engine_draws: Draws,
    loss_draws: Draws,
    components: int,
    finetunings: Finetunings | None = None,
) -> dict[str, Any]:
    """Return the verdict of an assembled table as JSON data; its form is `pipeline.analysis.schema.SCHEMA`.

    `engines` is the long frame of engines.csv, `entry` the study's report entry, `curve` the frame of curves.csv;
    `engine_draws` are of what the deployed engines put out, `finetunings` of a study that finetunes. Differences are
    positive where heavy is better: heavy - light in quality, light - heavy in loss.
    StudyError names a chosen row without quality.
    """
    configs = configurations(frame)
    limits = limits_bytes(frame, entry["limits"])
    quality, engine_quality = (
        measure(frame, column, sign=1, draws=draws, threshold=entry["min_quality"])
        for column, draws in (("quality", quality_draws), ("engine_quality", engine_draws))
    )
    least_loss = entry["min_loss_percent"] / 100
    loss = measure(frame, "test_loss", sign=-1, draws=loss_draws, threshold=least_loss, relative=True)
    throughput = gflops_per_second(frame)
    matches = []
    for match in entry["matches"]:
        here = configs[configs["match"] == match]
        lists = {
            LISTS[classes]: ladder(
                select(configs, match, limits, classes=classes),
                match=match,
                unit="bytes",
                side=functools.partial(_side, here, task=entry["task"]),
                quality=quality,
                loss=loss,
                components=components,
            )
            for classes in CLASSES
        }
        matches.append({"matched": MATCHED[match], "match": match, "budget": entry["budgets"][match], **lists})
    latency = latency_verdict(frame, engines, entry, quality=engine_quality, loss=loss, components=components)
    students = student_rivals(frame, entry, quality=quality, loss=loss, components=components)
    found = correlations(rounded(frame))
    return {
        "study": entry["study"],
        "task": entry["task"],
        "claim": claim_sentence(matches, quality_name=entry["quality_name"], throughput=throughput),
        "latency_claim": latency_claim(latency, timed_settings(engines), quality_name=entry["quality_name"]),
        "quality_name": entry["quality_name"],
        "thresholds": {
            "quality": entry["min_quality"],
            "loss_percent": entry["min_loss_percent"],
            "p_value": SIGNIFICANCE,
            "latency_tolerance": LATENCY_TOLERANCE,
        },
        "gflops_per_second": throughput,
        "matches": matches,
        "latency": latency,
        "fronts": fronts(frame),
        "from_scratch": from_scratch(frame, loss, components=components),
        "why": found,
        **first_study_checks(
            frame,
            curve,
            entry,
            matches=matches,
            correlations=found,
            quality=quality,
            loss=loss,
            components=components,
            finetunings=finetunings,
        ),
        "students_claim": students_claim(students),
        "students": students,
    }
