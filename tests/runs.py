"""A tiny pretrained run for the tests of what is built on one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.training.objectives import CrossEntropy
from pipeline.training.pretraining import pretrain

KEY = "tiny-w16x1-s0"
SHAPE = {"size": "w16x1", "d_model": 16, "num_layers": 1, "num_heads": 1, "ffn_dim": 64}
COMMON: dict[str, Any] = {"study": "tiny", "task": "translation", **SHAPE, "seed": 0}
TRAINING: dict[str, Any] = {
    "learning_rate": 8e-3,
    "mup_base_width": None,
    "dropout": 0.1,
    "batch_tokens": 300,
    "label_smoothing": 0.1,
    "weight_decay": 0.01,
    "clip_norm": 1.0,
    "precision": "fp32",
    "checkpoint_seconds": 1e-9,
    "seconds_per_step": 0.5,
}
PRETRAIN: dict[str, Any] = {
    **COMMON,
    **TRAINING,
    "budgets": {"seconds": "40 s"},
    "recovery_fraction": 0.15,
    "warmup_steps": 4,
    "decay_fraction": 0.2,
    "validate_points": 2,
}


def at_steps(monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, ...], happens: Callable[[], None]) -> list[int]:
    """Let something happen at these calls of the training objective, counted from 1; return the steps of all calls so far."""
    plain, calls = CrossEntropy.__call__, []

    def observed(self: CrossEntropy, model: Any, batch: Any, *, step: int) -> torch.Tensor:
        calls.append(step)
        if len(calls) in numbers:
            happens()
        return plain(self, model, batch, step=step)

    monkeypatch.setattr(CrossEntropy, "__call__", observed)
    return calls


def die() -> None:
    """Stand in for a process that is gone without a chance to save."""
    raise MemoryError("as if the process were gone")


def pretrained(corpus: PreparedCorpus, folder: Path, *, key: str = KEY, **changes: Any) -> Path:
    """Pretrain a tiny model with the branches `seconds` and `seconds-early`; return its folder."""
    from pipeline.evaluation.losses import validation_loss

    out = folder / "pretrain" / key
    entry = PRETRAIN | changes
    pretrain(entry, key=key, corpus=corpus, out=out, work=folder / "work" / key, validate=validation_loss(corpus))
    return out
