"""Every model that a study makes: its run_id, how it is made, and where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.run_id import parse_run_id

SCRATCH = "scratch"
"""The recipe of models that were finetuned without pretraining: a control beside fp32, never chosen for anything."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """One model; `folder` is where it lies under artifacts/<study>/."""

    run_id: str
    method: str
    folder: Path


def _applies(recipe: dict[str, Any], *, size: str, seed: int, match: str) -> bool:
    return (
        match in recipe["matches"] and size in recipe["sizes"] and (recipe["seeds"] is None or seed < recipe["seeds"])
    )


def models_of_run(entry: dict[str, Any], key: str) -> Iterator[Expected]:
    """Yield a trained run's models by match, fp32 first, then what was never pretrained, where there is that.

    `entry` has `matches`, the study's `recipes`, the folder `trained_in` where it is not ``pretrain``, and perhaps `scratch`.
    """
    trained_in = entry.get("trained_in", "pretrain")
    for match in entry["matches"]:
        run_id = f"{key}-{match}-fp32"
        identity = parse_run_id(run_id)
        yield Expected(run_id=run_id, method="none", folder=Path(trained_in, key, match))
        if entry.get("scratch"):
            yield Expected(
                run_id=f"{key}-{match}-{SCRATCH}", method="none", folder=Path(trained_in, key, f"{match}-{SCRATCH}")
            )
        for name, recipe in entry["recipes"].items():
            if _applies(recipe, size=identity["size"], seed=identity["seed"], match=match):
                yield Expected(
                    run_id=f"{key}-{match}-{name}",
                    method=recipe["method"],
                    folder=Path("compressed", key, recipe["family"], f"{match}-{name}"),
                )


def models_of_student(entry: dict[str, Any], key: str) -> Iterator[Expected]:
    """Yield a distilled student's models, fp32 first; `entry` has the study's `recipes`."""
    yield Expected(run_id=f"{key}-seconds-fp32", method="distill", folder=Path("distill", key, "seconds"))
    for name, recipe in entry["recipes"].items():
        if recipe["students"]:
            yield Expected(
                run_id=f"{key}-seconds-{name}",
                method=f"distill+{recipe['method']}",
                folder=Path("compressed", key, recipe["family"], f"seconds-{name}"),
            )


def expected_models(entry: dict[str, Any]) -> list[Expected]:
    """Return all models of a study whose `entry` has `runs`, `students`, `matches` and `recipes`, in the table's order."""
    of_runs = [model for key in entry["runs"] for model in models_of_run(entry, key)]
    return of_runs + [model for key in entry["students"] for model in models_of_student(entry, key)]
