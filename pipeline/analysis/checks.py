"""The first study's checks on this study's data: what verdict.json holds beside its ladders."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipeline.analysis.early_and_late import early_and_late, early_and_late_sentence
from pipeline.analysis.equal_pretraining_loss import (
    Finetunings,
    equal_pretraining_loss,
    equal_pretraining_loss_sentences,
)
from pipeline.analysis.first_study import first_study_claims
from pipeline.analysis.grids import sizes_in_order
from pipeline.analysis.loss_by_size import loss_by_size, loss_by_size_sentences
from pipeline.analysis.measures import Measure
from pipeline.analysis.task_words import Words, words_of
from pipeline.analysis.time_to_loss import time_to_loss, time_to_loss_sentence
from pipeline.analysis.what_pretraining_brought import what_pretraining_brought, what_pretraining_brought_sentence


def first_study_checks(
    frame: pd.DataFrame,
    curve: pd.DataFrame,
    entry: dict[str, Any],
    *,
    matches: list[dict[str, Any]],
    correlations: list[dict[str, Any]],
    quality: Measure,
    loss: Measure,
    components: int,
    finetunings: Finetunings | None,
) -> dict[str, Any]:
    """Return the keys of `pipeline.analysis.schema_checks.CHECKS`.

    `curve` is the frame of curves.csv; `matches` and `correlations` are those of verdict.json. `finetunings` are None where
    the study finetunes nothing, and what is about finetuning is null then.
    """
    sizes = sizes_in_order(frame)
    times = time_to_loss(curve, sizes)
    finetuned = None if finetunings is None else equal_pretraining_loss(frame, entry["recipes"], finetunings)
    return {
        "first_study": first_study_claims(
            frame,
            matches=matches,
            time_to_loss=times,
            correlations=correlations,
            equal_pretraining_loss=finetuned,
            words=words_of(entry["task"]),
        ),
        "loss_by_size": loss_by_size(curve, sizes),
        "time_to_loss": times,
        "equal_pretraining_loss": finetuned,
        "what_pretraining_brought": None
        if finetunings is None
        else what_pretraining_brought(frame, quality=quality, loss=loss, components=components),
        "early_and_late": early_and_late(frame, entry["recipes"], loss, components=components),
    }


def check_sentences(verdict: dict[str, Any], *, words: Words) -> dict[str, str | list[str]]:
    """Return what each check of a verdict found, a sentence or several, by the check's key, which is its figure's name."""
    matches = [match["match"] for match in verdict["matches"]]
    sentences: dict[str, str | list[str]] = {
        "loss_by_size": loss_by_size_sentences(verdict["loss_by_size"], matches, words=words),
        "time_to_loss": time_to_loss_sentence(verdict["time_to_loss"]),
        "early_and_late": early_and_late_sentence(verdict["early_and_late"]),
    }
    if verdict["equal_pretraining_loss"] is not None:
        found = verdict["equal_pretraining_loss"]
        sentences["equal_pretraining_loss"] = equal_pretraining_loss_sentences(found, words=words)
    if verdict["what_pretraining_brought"] is not None:
        lines = verdict["what_pretraining_brought"]
        sentences["what_pretraining_brought"] = what_pretraining_brought_sentence(lines, words=words)
    return sentences
