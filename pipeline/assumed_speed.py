"""A calibration of a machine that is not at hand: what a study would cost at an assumed speed."""

from __future__ import annotations

from pipeline.calibration import Calibration
from pipeline.expansion import teacher_candidates
from pipeline.flops import forward_flops, train_flops
from pipeline.plan import step_positions
from pipeline.steps_needed import steps_needed
from pipeline.study import Study


def assumed_calibration(study: Study, *, gflops: float) -> Calibration:
    """Return seconds a step of every kind at `gflops` (1e9 matmul FLOPs a second) whatever the size; decoding is left out."""
    vocabulary = study.corpus.vocab_size
    seconds: dict[str, dict[str, float]] = {}
    for needed in steps_needed(study, teachers=teacher_candidates(study)):
        positions = step_positions(study, needed.size)
        flops = train_flops(needed.size, positions, vocab_size=vocabulary)
        if needed.teacher is not None:
            flops += forward_flops(needed.teacher, positions, vocab_size=vocabulary)
        seconds.setdefault(f"{needed.kind}_step_seconds", {})[needed.key] = flops / (gflops * 1e9)
    return Calibration(**seconds)
