"""A ladder of limits: at each, the heavy choice against the light one, by quality and by loss; of bytes or of milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from pipeline.analysis.differences import Difference, holm
from pipeline.analysis.measures import Measure, difference
from pipeline.selection import Choice

SIGNIFICANCE = 0.05
MATCHED = {"seconds": "device_seconds", "flops": "train_flops"}
Side = dict[str, Any]


def described_side(configuration: pd.Series) -> Side:
    """Return what verdict.json says of a line of `pipeline.selection.configurations` in every unit."""
    return {
        "config_id": str(configuration["config_id"]),
        "run_ids": list(configuration["run_ids"]),
        "valid_loss": float(configuration["valid_loss"]),
        "test_loss": float(configuration["test_loss"]),
        "compression_ratio": float(configuration["compression_ratio"]),
        "params_total": int(configuration["params_total"]),
        "size_bytes": int(configuration["size_bytes"]),
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


def ladder(
    choices: list[Choice],
    *,
    match: str,
    unit: str,
    side: Callable[[str], Side],
    quality: Measure,
    loss: Measure,
    components: int,
) -> list[dict[str, Any]]:
    """Return one entry a choice, in the form of a list of limits in verdict.json.

    `side` describes a configuration by its config_id; what it returns holds the columns of both measures and
    `params_total`. Differences are positive where heavy is better; p-values are adjusted over these limits alone.
    """

    def compared(choice: Choice, by: Measure) -> Difference | None:
        if choice.heavy is None or choice.light is None:
            return None
        return difference(by, match, choice.heavy, choice.light, components=components)

    sides = [[None if name is None else side(name) for name in (choice.heavy, choice.light)] for choice in choices]
    by_measure = []
    for by in (quality, loss):
        least = [by.least(light[by.column]) if light else 0.0 for _, light in sides]
        by_measure.append(_outcomes([compared(choice, by) for choice in choices], least))
    entries = []
    for choice, (heavy, light), by_quality, by_loss in zip(choices, sides, *by_measure, strict=True):
        larger = bool(heavy and light and heavy["params_total"] > light["params_total"])
        entries.append(
            {
                "limit": choice.limit,
                "unit": unit,
                "heavy": heavy,
                "light": light,
                **by_quality,
                "supports_train_large": larger and by_quality["winner"] == "heavy",
                "by_loss": by_loss | {"supports_train_large": larger and by_loss["winner"] == "heavy"},
                "by_size": {size: side(name) for size, name in choice.by_size.items()},
            }
        )
    return entries
