"""How a student begins: with fresh weights, or cut out of its teacher.

What it does: `random` builds the size anew, as a plain run does. `teacher` takes the teacher's own weights and removes
layers, columns of the residual stream with their heads, and FFN columns, until the student's shape is left; nothing is
charged for that, since no data is read. The teacher's own training is charged as that of any teacher: not at all,
amortised, or whole, side by side in the report.
Source: Sanh et al. 2019, DistilBERT (arXiv 1910.01108), Section 3: every other layer of the teacher begins the student;
Shleifer and Rush 2020 (arXiv 2010.13002) for translation; Muralidharan et al. 2024 (arXiv 2407.14679) for width.
When it helps: when the budget is short: the first steps of a fresh model go into what a teacher's embedding has already.
When not: when most of the width goes, which destroys the function and leaves little but the embedding; and where the
teacher's own training has to be counted whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.compression.shrinking import shrink_to
from pipeline.models.building import build, set_dropout
from pipeline.models.checkpoint import load_dense, read_run
from pipeline.size import SizeSpec
from pipeline.training.parametrization import scale_initial

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


def initial_student(entry: dict[str, Any], *, teacher: Path, vocab_size: int) -> Model:
    """Return the student of an entry before its first step, by ``init``: ``random`` or ``teacher``.

    Either way the entry's seed seeds torch's generator, from which dropout draws. StudyError when the student is not
    smaller than the teacher in every dimension, or its heads have another number of columns.
    """
    if entry["init"] == "random":
        model = build(SizeSpec.of_record(entry), vocab_size=vocab_size, dropout=entry["dropout"], seed=entry["seed"])
        # A model cut out of its teacher has the scale that muP gave the teacher, and was trained at it.
        scale_initial(model, base_width=entry["mup_base_width"])
        return model
    torch.manual_seed(entry["seed"])
    model = shrink_to(load_dense(teacher), SizeSpec.of_record(read_run(teacher)["size"]), SizeSpec.of_record(entry))
    set_dropout(model, entry["dropout"])
    return model
