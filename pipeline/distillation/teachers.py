"""Which trained model teaches, and what its own training cost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pipeline.errors import StudyError
from pipeline.files import read_json


def best_teacher(candidates: list[str], *, pretrained: Path) -> str:
    """Return the pretrain key whose `seconds` branch has the lowest validation loss; StudyError when none was trained."""
    losses = {}
    for key in candidates:
        metrics: dict[str, Any] = read_json(pretrained / key / "metrics.json")
        loss = metrics["seconds"].get("valid_loss")
        losses[key] = math.inf if loss is None else float(loss)
    best = min(candidates, key=lambda key: (losses[key], key), default=None)
    if best is None or losses[best] == math.inf:
        raise StudyError(
            f"{pretrained}: no larger model finished training, so no one can teach; look at their metrics.json"
        )
    return best
