"""A calibration of a machine that is not at hand: what a study would cost at an assumed speed."""

from __future__ import annotations

from pipeline.calibration import Calibration
from pipeline.expansion import teacher_candidates
from pipeline.flops import Positions, forward_flops, train_flops
from pipeline.plan import typical_positions
from pipeline.size import SizeSpec
from pipeline.steps_needed import steps_needed
from pipeline.study import Study
from pipeline.text_corpus import EncoderCorpusSpec


def _positions(study: Study, size: SizeSpec) -> Positions:
    """Return what a full batch of this size's training computes; of a classifier's, sentences as long as they may be."""
    if not (size.num_labels and study.finetune and isinstance(study.corpus, EncoderCorpusSpec)):
        return typical_positions(study)
    length = study.corpus.max_tokens
    sentences = max(1, study.finetune.batch_tokens // length)
    return Positions.padded(batch=sentences, source_length=length, target_length=1, scored=sentences)


def assumed_calibration(study: Study, *, gflops: float) -> Calibration:
    """Return seconds a step of every kind at `gflops` (1e9 matmul FLOPs a second) whatever the size; decoding is left out."""
    vocabulary = study.corpus.vocab_size
    seconds: dict[str, dict[str, float]] = {}
    for needed in steps_needed(study, teachers=teacher_candidates(study)):
        positions = _positions(study, needed.size)
        flops = train_flops(needed.size, positions, vocab_size=vocabulary)
        if needed.teacher is not None:
            flops += forward_flops(needed.teacher, positions, vocab_size=vocabulary)
        seconds.setdefault(f"{needed.kind}_step_seconds", {})[needed.key] = flops / (gflops * 1e9)
    return Calibration(**seconds)
