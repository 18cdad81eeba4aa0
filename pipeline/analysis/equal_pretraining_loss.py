"""Started from equal pretraining loss, do sizes finetune equally well? Every branch of every size that was finetuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from pipeline.analysis.damage import is_dense
from pipeline.analysis.task_words import Words
from pipeline.analysis.wording import number

Finetunings = Mapping[tuple[str, str], Mapping[str, Any]]
"""{(key of the run, branch): what the finetune stage says of it}: `pretrain_valid_loss` of the encoder, and `steps`.

Branches are ``seconds``, ``flops-early``, ...
"""

SCORES = ("quality", "test_loss")


def finetuned_branches(frame: pd.DataFrame, recipes: dict[str, Any], finetunings: Finetunings) -> pd.DataFrame:
    """Return the finetuned, uncompressed rows of whole and of early branches, with `branch`, `pretrain_valid_loss` and `finetune_steps`.

    Early branches are rows of their own where a recipe of the report entry's `recipes` takes them as they are. Rows without
    either loss are left out.
    """
    untouched = {name for name, facts in recipes.items() if facts["branch"] == "early" and facts["kind"] == "none"}
    early = frame["recipe"].isin(untouched) & frame["teaching"].isna()
    rows = frame[(is_dense(frame) | early) & (frame["status"] == "ok")]
    suffix = early[rows.index].map({True: "-early", False: ""})
    rows = rows.assign(branch=rows["match"] + suffix, key=rows["run_id"].str.rsplit("-", n=2).str[0])
    told = [finetunings.get(place, {}) for place in zip(rows["key"], rows["branch"], strict=True)]
    for column, name in (("pretrain_valid_loss", "pretrain_valid_loss"), ("finetune_steps", "steps")):
        rows[column] = pd.Series([one.get(name) for one in told], index=rows.index, dtype="float64")
    return rows.dropna(subset=["pretrain_valid_loss", *SCORES])


def branch_points(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line a (size, branch) of `finetuned_branches`: means over seeds, their standard deviations, and `seeds`."""
    grouped = rows.groupby(["size", "branch"], sort=False)
    points = grouped[["params_total", "pretrain_valid_loss", "finetune_steps", *SCORES]].mean().astype("float64")
    for name in SCORES:
        points[f"{name}_sd"] = grouped[name].std(ddof=1)
    points["seeds"] = grouped["seed"].nunique()
    points = points.reset_index()
    return points.sort_values(["params_total", "size", "pretrain_valid_loss"], kind="stable").reset_index(drop=True)


def shared_ranges(points: pd.DataFrame) -> list[tuple[float, float, list[str]]]:
    """Return (low, high, sizes) of every range of pretraining loss that at least two sizes span and no further one does.

    Lowest first; a size spans what lies between its lowest and its highest branch. Empty where no ranges overlap.
    """
    spans = {str(size): (g.min(), g.max()) for size, g in points.groupby("size", sort=False)["pretrain_valid_loss"]}
    found: list[tuple[float, float, list[str]]] = []
    for low in sorted({low for low, _ in spans.values()}):
        inside = [size for size, (first, last) in spans.items() if first <= low < last]
        if len(inside) > 1:
            found.append((float(low), float(min(spans[size][1] for size in inside)), inside))
    return [one for one in found if not any(set(one[2]) < set(other[2]) for other in found)]


def seeds_explain(points: pd.DataFrame, column: str, *, sizes: int, level: float = 0.95) -> float | None:
    """Return how far apart `sizes` means over seeds lie by the luck of seeds alone, at most, with probability `level`.

    Tukey's range: the studentized range times the standard error of a mean, with the variance of `column` pooled over the
    points, and of a point's seeds the fewest. None where a point has one seed.
    Source: Tukey, The Problem of Multiple Comparisons (1953); Montgomery, Design and Analysis of Experiments, chapter 3.
    """
    if (points["seeds"] < 2).any():
        return None
    degrees = float((points["seeds"] - 1).sum())
    variance = float(((points["seeds"] - 1) * points[f"{column}_sd"] ** 2).sum()) / degrees
    factor = float(stats.studentized_range.ppf(level, sizes, degrees))
    return factor * float(np.sqrt(variance / int(points["seeds"].min())))


def repeated_points(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points of several seeds where two sizes have such, else all: a single seed says nothing of its luck."""
    several = points[points["seeds"] > 1]
    return several if several["size"].nunique() > 1 else points


def at_equal_loss(points: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one dict a shared range: the middle of it, and what each size has there after finetuning, as JSON data.

    Of `repeated_points`. Scores are linear between the two branches of a size next to that loss, `between` which it lies.
    `quality_seeds` and `test_loss_seeds` are `seeds_explain` of these sizes; None with one seed.
    """
    result = []
    points = repeated_points(points)
    for low, high, sizes in shared_ranges(points):
        loss = (low + high) / 2
        mine = points[points["size"].isin(sizes)]
        lines = []
        for size in sizes:
            branches = mine[mine["size"] == size].sort_values("pretrain_valid_loss")
            before = branches["pretrain_valid_loss"].to_numpy()
            scores = {name: float(np.interp(loss, before, branches[name])) for name in SCORES}
            after = int(np.clip(np.searchsorted(before, loss), 1, len(before) - 1))
            around = branches.iloc[[after - 1, after]]
            steps = around["finetune_steps"]
            lines.append(
                {
                    "size": size,
                    **scores,
                    "between": [float(one) for one in around["pretrain_valid_loss"]],
                    "finetune_steps": None if steps.isna().any() else [float(steps.min()), float(steps.max())],
                }
            )
        spread = {f"{name}_spread": float(np.ptp([line[name] for line in lines])) for name in SCORES}
        seeds = {f"{name}_seeds": seeds_explain(mine, name, sizes=len(sizes)) for name in SCORES}
        result.append({"loss": loss, "low": low, "high": high, "sizes": lines, **spread, **seeds})
    return result


def equal_pretraining_loss(frame: pd.DataFrame, recipes: dict[str, Any], finetunings: Finetunings) -> dict[str, Any]:
    """Return the `points` of a table and what sizes have at a `common` pretraining loss, in the form of verdict.json."""
    points = branch_points(finetuned_branches(frame, recipes, finetunings))
    numbers = ("pretrain_valid_loss", "finetune_steps", *SCORES, *(f"{name}_sd" for name in SCORES))
    return {
        "points": [
            {
                "size": str(line["size"]),
                "branch": str(line["branch"]),
                "seeds": int(line["seeds"]),
                **{name: None if pd.isna(line[name]) else float(line[name]) for name in numbers},
            }
            for line in points.to_dict("records")
        ],
        "common": at_equal_loss(points),
    }


def steps_range(one: dict[str, Any]) -> str | None:
    """Write the least and the most finetuning steps of the branches that a common loss is read off; None where not told."""
    steps = [step for line in one["sizes"] for step in line["finetune_steps"] or ()]
    return f"{number(min(steps), 0)} to {number(max(steps), 0)} steps of finetuning" if steps else None


def _steps(one: dict[str, Any]) -> str:
    told = steps_range(one)
    return "" if told is None else f", after {told}"


def _compared(found: dict[str, Any]) -> set[str]:
    return {line["size"] for one in found["common"] for line in one["sizes"]}


def equal_pretraining_loss_sentences(found: dict[str, Any], *, words: Words) -> list[str]:
    """Return what sizes have at each common pretraining loss, one sentence each; or that there is none."""
    if not found["common"]:
        return [
            "The branches of no two sizes span a common pretraining loss: whether sizes finetune equally well from an equal loss "
            "is not known here."
        ]
    sentences = []
    for one in found["common"]:
        apart_in_loss = [line["between"][1] - line["between"][0] for line in one["sizes"]]
        values = ", ".join(f"{line['size']} {number(line['quality'], 1)}" for line in one["sizes"])
        apart = f"{number(one['quality_spread'], 1)} points apart"
        seeds = (
            "; with one seed nothing says how much of that is luck"
            if one["quality_seeds"] is None
            else f", where seeds alone explain up to {number(one['quality_seeds'], 1)} (test loss: "
            f"{number(one['test_loss_spread'], 3)} and {number(one['test_loss_seeds'], 3)})"
        )
        sentences.append(
            f"At a pretraining loss of {number(one['loss'], 3)}, which the branches of {len(one['sizes'])} sizes span, "
            f"{words.quality} after finetuning is, in order of parameters, {values}: {apart}{seeds}. "
            f"Each is read off the line between its two branches next to that loss, which are {number(min(apart_in_loss), 3)} to "
            f"{number(max(apart_in_loss), 3)} nats apart{_steps(one)}."
        )
    if left := sorted({line["size"] for line in found["points"] if line["seeds"] < 2} - _compared(found)):
        sentences.append(f"Branches of a single seed are not compared ({', '.join(left)}).")
    return sentences
