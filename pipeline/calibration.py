"""Seconds a step on the machine that calibrated a study: a small committed file that turns seconds into steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.files import read_json

FOLDER = Path("configs/calibration")


def calibration_path(study: str) -> Path:
    """Return where a study's calibration lies."""
    return FOLDER / f"{study}.json"


def word_key(student: str, teacher: str) -> str:
    """Return the key of a word-level distillation step, ``w32x2<-w128x2``."""
    return f"{student}<-{teacher}"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Device seconds (of one single-thread process, the machine as busy as in the study) of each kind of work."""

    train_step_seconds: dict[str, float] = field(default_factory=dict)  # by size
    finetune_step_seconds: dict[str, float] = field(default_factory=dict)  # by size, masks applied
    qat_step_seconds: dict[str, float] = field(default_factory=dict)  # by size, weights rounded on the way forward
    word_step_seconds: dict[str, float] = field(default_factory=dict)  # by `word_key`
    decode_sentence_seconds: dict[str, float] = field(default_factory=dict)  # by teacher size, beam of the study
    machine: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, study: str) -> Calibration:
        """Read a study's calibration; an empty one when the study has not been calibrated yet."""
        path = calibration_path(study)
        if not path.exists():
            return cls()
        data = read_json(path)
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})

    def seconds(self, kind: str, size: str, teacher: str | None = None) -> float | None:
        """Return the seconds of one step of a `kind` (train, finetune, qat, word) on a size, None before it was measured."""
        steps: dict[str, float] = getattr(self, f"{kind}_step_seconds")
        return steps.get(word_key(size, teacher) if teacher else size)
