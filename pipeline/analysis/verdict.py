"""The verdict: at each byte limit, heavily compressed against lightly compressed, under both matches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.analysis.claim import claim_sentence
from pipeline.analysis.differences import BySeed, Difference, SeedVariance, between_sizes, compare, holm, within_size
from pipeline.analysis.throughput import gflops_per_second
from pipeline.errors import StudyError
from pipeline.selection import CLASSES, Choice, configurations, limits_bytes, select

SIGNIFICANCE = 0.05
MATCHED = {"seconds": "device_seconds", "flops": "train_flops"}
LISTS = {"int8_rival": "limits", "first_study": "limits_first_study"}
"""The list of a match's verdict that each definition of the classes fills."""

Draws = Callable[[str], NDArray[np.float64]]
"""run_id -> the model's score on every bootstrap draw, (resamples,)."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A score to compare by: its column, its sign (+1: more is better), and what a relevant difference is."""

    column: str
    sign: int
    draws: Draws
    threshold: float
    relative: bool

    def least(self, light: float) -> float:
        """Return the smallest difference that can win, in the measure's units."""
        return self.threshold * light if self.relative else self.threshold


def _by_seed(frame: pd.DataFrame, match: str, config_id: str, measure: Measure) -> BySeed:
    rows = frame[(frame["match"] == match) & (frame["config_id"] == config_id) & (frame["status"] == "ok")]
    values = rows.set_index("seed")[measure.column].dropna()
    return {int(seed): measure.sign * float(value) for seed, value in values.items()}


def _needed(frame: pd.DataFrame, match: str, config_id: str, measure: Measure) -> BySeed:
    rows = frame[(frame["match"] == match) & (frame["config_id"] == config_id)]
    without = rows[rows[measure.column].isna()]
    if len(without):
        name, study = without["run_id"].iloc[0], without["study"].iloc[0]
        raise StudyError(
            f"{name}: its {measure.column} is needed and was not measured; "
            f"run `python -m stages.translate --test {study}`"
        )
    return _by_seed(frame, match, config_id, measure)


def _seed_variance(frame: pd.DataFrame, match: str, heavy: str, light: str, measure: Measure) -> SeedVariance | None:
    heavy_size, light_size = heavy.split("/")[0], light.split("/")[0]
    sizes = [str(size) for size in frame["size"].unique()]
    if heavy_size == light_size:
        pairs: dict[str, list[float]] = {}
        for size in sizes:
            first, second = (_by_seed(frame, match, f"{size}/{name.split('/')[1]}", measure) for name in (heavy, light))
            pairs[size] = [first[seed] - second[seed] for seed in sorted(set(first) & set(second))]
        pooled = within_size(pairs)
        if pooled is not None:
            return pooled
    # One size of one seed: the spread between sizes is an upper bound, for there the noise of training does not cancel.
    chosen = {} if heavy_size == light_size else {heavy_size: heavy, light_size: light}
    table = {size: _by_seed(frame, match, chosen.get(size, f"{size}/fp32"), measure) for size in sizes}
    return between_sizes({size: scores for size, scores in table.items() if scores})


def difference(
    frame: pd.DataFrame, match: str, heavy: str, light: str, measure: Measure, *, components: int
) -> Difference:
    """Return the difference of two configurations on the test set; positive favours heavy, whatever the measure.

    The seed variance is pooled over sizes: over the dense rows of the other sizes when two sizes are compared, over the
    same two recipes of every size when one size is compared with itself. StudyError names a row that lacks the measure.
    """
    scores = [_needed(frame, match, name, measure) for name in (heavy, light)]
    rows = frame[frame["match"] == match].set_index(["config_id", "seed"])["run_id"]
    seeds = sorted(set(scores[0]) & set(scores[1]))
    if not seeds:
        raise StudyError(f"{heavy} and {light} have no seed in common under match {match}; give their sizes more seeds")
    resampled = np.mean([measure.draws(rows[heavy, s]) - measure.draws(rows[light, s]) for s in seeds], axis=0)
    return compare(
        scores[0],
        scores[1],
        resampled=measure.sign * resampled,
        components=components,
        seed_variance=_seed_variance(frame, match, heavy, light, measure),
    )


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
    frame: pd.DataFrame, here: pd.DataFrame, match: str, choices: list[Choice], measures: list[Measure], components: int
) -> list[dict[str, Any]]:
    def compared(choice: Choice, measure: Measure) -> Difference | None:
        if choice.heavy is None or choice.light is None:
            return None
        return difference(frame, match, choice.heavy, choice.light, measure, components=components)

    sides = [
        [None if name is None else _side(here, name) for name in (choice.heavy, choice.light)] for choice in choices
    ]
    by_measure = []
    for measure in measures:
        column = {"quality": "quality", "test_loss": "test_loss"}[measure.column]
        least = [measure.least(light[column]) if light else 0.0 for _, light in sides]
        by_measure.append(_outcomes([compared(choice, measure) for choice in choices], least))
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
        Measure(column="quality", sign=1, draws=quality_draws, threshold=entry["min_bleu"], relative=False),
        Measure(
            column="test_loss", sign=-1, draws=loss_draws, threshold=entry["min_loss_percent"] / 100, relative=True
        ),
    ]
    throughput = gflops_per_second(frame)
    matches = []
    for match in entry["matches"]:
        here = configs[configs["match"] == match]
        lists = {
            LISTS[classes]: _entries(
                frame, here, match, select(configs, match, limits, classes=classes), measures, components
            )
            for classes in CLASSES
        }
        matches.append({"matched": MATCHED[match], "match": match, "budget": entry["budgets"][match], **lists})
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
    }
