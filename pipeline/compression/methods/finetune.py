"""Recovery by finetuning: further training on the corpus after something was removed.

What it does: trains on the corpus with the rate falling linearly to 0 over the step's share of the recovery budget, with
pruned weights held at 0.
Source: Han et al. 2015 (arXiv 1506.02626), section 3.3; Li et al. 2020 (arXiv 2002.11794), section 4.
When it helps: after every kind of pruning; what is removed in one shot comes back in a few hundred steps.
When not: after quantization, whose grid it would leave (`qat` trains on the grid).
"""

from __future__ import annotations

from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.recovery import recover
from pipeline.recipes import Finetune


def apply(candidate: Candidate, step: Finetune, bench: Bench) -> None:
    """Train on the step's share of the recovery budget."""
    recover(candidate, step, bench)
