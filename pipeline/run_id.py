"""A model's name: the study, the run, what its budget was matched in, and the recipe."""

from __future__ import annotations

import re
from typing import Any

from pipeline.errors import StudyError

_RUN_ID = re.compile(
    r"(?P<study>[a-z][a-z0-9_]*)-(?P<size>w\d+x\d+(?:h\d+)?(?:f\d+)?)(?:-(?P<teaching>(?:word|sequence|both)(?:init)?))?"
    r"-s(?P<seed>\d+)-(?P<match>seconds|flops)-(?P<recipe>[a-z][a-z0-9]*)"
)


def parse_run_id(run_id: str) -> dict[str, Any]:
    """Return study, size, seed, match, recipe, teaching (None: not distilled) and config_id; StudyError on another form."""
    found = _RUN_ID.fullmatch(run_id)
    if found is None:
        raise StudyError(
            f"{run_id!r} is not a run_id such as 'default-w64x2-s0-seconds-q4'; run the evaluate stage again"
        )
    size, teaching, recipe = found["size"], found["teaching"], found["recipe"]
    return {
        "run_id": run_id,
        "study": found["study"],
        "size": size,
        "seed": int(found["seed"]),
        "match": found["match"],
        "recipe": recipe,
        "teaching": teaching,
        "config_id": f"{size}-{teaching}/{recipe}" if teaching else f"{size}/{recipe}",
    }
