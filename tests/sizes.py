"""The sizes of the studies in configs/ that are small enough to be built."""

from __future__ import annotations

from pathlib import Path

from pipeline.flops import parameters_total
from pipeline.size import Architecture, SizeSpec
from pipeline.study import load_study

LARGEST_PARAMETERS = 5_000_000  # studies at a paper's scale are priced, not run


def study_sizes(architecture: Architecture = "encoder-decoder") -> list[tuple[SizeSpec, int]]:
    """Return (size, vocabulary) of every study in configs/ with this architecture, but for what is too large to be built."""
    studies = [load_study(path) for path in sorted(Path("configs").glob("*.yaml"))]
    return [
        (size, study.corpus.vocab_size)
        for study in studies
        for size in study.sizes
        if size.architecture == architecture
        and parameters_total(size, vocab_size=study.corpus.vocab_size) <= LARGEST_PARAMETERS
    ]
