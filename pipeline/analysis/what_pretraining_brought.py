"""What pretraining brought: each size finetuned from its pretrained encoder, beside the same finetuning of random weights."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipeline.analysis.grids import sizes_in_order
from pipeline.analysis.measures import Measure, difference
from pipeline.analysis.task_words import Words
from pipeline.analysis.wording import number, signed
from pipeline.selection import SCRATCH


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
    sure = [line for line in lines if line["quality"]["low"] is not None and line["quality"]["low"] > 0]
    least, most = (pick(lines, key=lambda line: float(line["quality"]["difference"])) for pick in (min, max))
    which = [f"{signed(one['quality']['difference'], 1)} ({one['size']}, {one['match']})" for one in (least, most)]
    span = f"is {which[0]}" if len(lines) == 1 else f"runs from {which[0]} to {which[1]}"
    losses = [line["loss"]["difference"] for line in lines]
    return (
        f"What pretraining brings {span} {words.quality_points}, with an interval above 0 at {len(sure)} of {len(lines)} sizes and "
        f"matches; in test loss it takes away {number(min(losses), 3)} to {number(max(losses), 3)} nats."
    )
