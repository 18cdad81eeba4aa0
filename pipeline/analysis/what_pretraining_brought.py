"""What pretraining brought: each size finetuned from its pretrained encoder, beside the same finetuning of random weights."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipeline.analysis.grids import sizes_in_order
from pipeline.analysis.measures import Measure, difference
from pipeline.analysis.task_words import Words
from pipeline.analysis.wording import number, signed
from pipeline.expected import SCRATCH


def what_pretraining_brought(
    frame: pd.DataFrame, *, quality: Measure, loss: Measure, components: int
) -> list[dict[str, Any]]:
    """Return, as JSON data, one dict a (match, size) whose fp32 models have their control: both, and their differences.

    Differences favour pretraining where they are positive: in quality fp32 - scratch, in test loss scratch - fp32; p is not
    adjusted. Sizes are in order of their parameters; one that lacks a seed of either is left out.
    """
    result = []
    for match in frame["match"].unique():
        for size in sizes_in_order(frame):
            pretrained, scratch = f"{size}/fp32", f"{size}/{SCRATCH}"
            places = [(by, (match, name)) for by in (quality, loss) for name in (pretrained, scratch)]
            if any(set(by.scores.get(place, {})) != set(by.run_ids.get(place, {0: ""})) for by, place in places):
                continue
            line: dict[str, Any] = {"match": str(match), "size": size}
            for side, name in (("pretrained", pretrained), ("scratch", scratch)):
                rows = frame[(frame["match"] == match) & (frame["config_id"] == name)]
                line[side] = {
                    "config_id": name,
                    "quality": float(rows["quality"].mean()),
                    "test_loss": float(rows["test_loss"].mean()),
                }
            for name, by in (("quality", quality), ("loss", loss)):
                found = difference(by, str(match), pretrained, scratch, components=components)
                line[name] = {
                    "difference": found.value,
                    "low": found.low,
                    "high": found.high,
                    "p_value": found.p_value,
                    "seeds": found.seeds,
                }
            result.append(line)
    return result


def what_pretraining_brought_sentence(lines: list[dict[str, Any]], *, words: Words) -> str:
    """Return what the lines say together, as one sentence."""
    if not lines:
        return "No size was finetuned without pretraining too."
    least, most = (pick(lines, key=lambda line: float(line["quality"]["difference"])) for pick in (min, max))
    which = [f"{signed(one['quality']['difference'], 1)} ({one['size']}, {one['match']})" for one in (least, most)]
    span = f"is {which[0]}" if len(lines) == 1 else f"runs from {which[0]} to {which[1]}"
    by_quality, by_loss = (told_apart([line[name] for line in lines]) for name in ("quality", "loss"))
    return (
        f"What pretraining brings {span} {words.quality_points}, with intervals {by_quality} sizes and matches; test loss "
        f"{_change([line['loss']['difference'] for line in lines])}, with intervals {by_loss}. The control without pretraining "
        "spent finetuning's share of the budget alone, at the same rate and for as many steps: it is not a model that had the "
        "whole budget."
    )


def told_apart(results: list[dict[str, Any]]) -> str:
    """Write of how many differences the interval lies above 0, and of how many below; with one seed there is none."""
    above, below = (
        sum(one["low"] is not None and sign * one[end] > 0 for one in results)
        for sign, end in ((1, "low"), (-1, "high"))
    )
    other = f" and below 0 at {below}" if below else ""
    return f"above 0 at {above}{other} of {len(results)}"


def _change(falls: list[float]) -> str:
    """Write how a loss changed from the least to the most that it fell by; a negative fall is a rise."""
    least, most = min(falls), max(falls)
    if least < 0 < most:
        return f"rises by up to {number(-least, 3)} and falls by up to {number(most, 3)} nats"
    first, last = sorted((abs(least), abs(most)))
    return f"{'rises' if least < 0 else 'falls'} by {number(first, 3)} to {number(last, 3)} nats"
