"""The sizes of every committed study."""

from __future__ import annotations

from pathlib import Path

from pipeline.size import SizeSpec
from pipeline.study import load_study


def study_sizes() -> list[tuple[SizeSpec, int]]:
    """Return (size, vocabulary) of every study in configs/."""
    studies = [load_study(path) for path in sorted(Path("configs").glob("*.yaml"))]
    return [(size, study.corpus.vocab_size) for study in studies for size in study.sizes]
