"""What a student learns from: word level, sequence level, or both; and what the teacher's part in that costs.

What it does: `word` mixes the teacher's distribution at every position into the loss (losses.py), `sequence` puts the
teacher's translations in the place of references (sequences.py). `both` does the two at once: the targets are the
teacher's translations, and at each of their positions the student sees the teacher's distribution too. Decoding is paid
before the first step, the teacher's passes with every step that has one.
Source: Kim and Rush 2016, Sequence-Level Knowledge Distillation, Section 3.2 and Table 1 (Seq-KD + Word-KD); Hinton et
al. 2015 for the word level.
When it helps: the two are complementary there, and both beat either alone: translations say which mode to learn, the
distributions how sure to be along it.
When not: under a budget that pays for both: decoding and passes together may cost more steps than they are worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.budget import Budget, Cost, Ledger
from pipeline.corpora.batches import BatchStream
from pipeline.corpora.prepared import PreparedCorpus, TokenArray
from pipeline.corpora.streams import open_stream
from pipeline.distillation.losses import WordDistillation
from pipeline.distillation.sequences import read_teacher, sequence_targets
from pipeline.errors import StudyError
from pipeline.models.checkpoint import load_dense, read_run
from pipeline.size import SizeSpec
from pipeline.training.devices import move, training_device
from pipeline.training.forward import forward_of
from pipeline.training.objectives import CrossEntropy, Objective
from pipeline.training.pretraining import calibrated
from pipeline.training.pricing import Price, step_price, taught_price, total_costs


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What the training loop is given: targets (None: the references), loss, and price of a step; `paid` before the first."""

    targets: TokenArray | None
    objective: Objective
    price: Price
    paid: Ledger

    def stream(self, entry: dict[str, Any], corpus: PreparedCorpus) -> BatchStream:
        """Return the student's batches from their beginning."""
        return open_stream(
            corpus.split("train"), batch_tokens=entry["batch_tokens"], seed=entry["seed"], targets=self.targets
        )


def lesson_of(
    entry: dict[str, Any], *, teacher: Path, translations: Path, corpus: PreparedCorpus, budget: Budget, precision: str
) -> Lesson:
    """Return what a student of `entry["method"]` learns from: ``word``, ``sequence`` or ``both``.

    StudyError when its steps beside this teacher are not calibrated.
    """
    taught = read_teacher(translations)
    targets, paid = None, Ledger()
    if entry["method"] in ("sequence", "both"):
        targets = sequence_targets(corpus, translations)
        paid.charge("decode", Cost(**taught["decode"]))
    plain = Lesson(
        targets=targets,
        objective=CrossEntropy(label_smoothing=entry["label_smoothing"]),
        price=step_price(SizeSpec.of_record(entry), vocab_size=corpus.vocab_size, seconds_per_step=calibrated(entry)),
        paid=paid,
    )
    if entry["method"] == "sequence":
        return plain
    steps = budget.steps_within(total_costs(plain.stream(entry, corpus), plain.price))
    until = round(entry["teacher_fraction"] * steps)
    price = taught_price(
        plain.price,
        SizeSpec.of_record(read_run(teacher)["size"]),
        vocab_size=corpus.vocab_size,
        seconds_per_step=_teacher_seconds(entry, taught["size"]),
        until=until,
    )
    model = load_dense(teacher)
    move(model, training_device())
    objective = WordDistillation(
        teacher=forward_of(model, precision=precision),
        label_smoothing=entry["label_smoothing"],
        alpha=entry["alpha"],
        temperature=entry["temperature"],
        direction=entry["direction"],
        teacher_until=until,
    )
    return Lesson(targets=targets, objective=objective, price=price, paid=paid)


def _teacher_seconds(entry: dict[str, Any], teacher_size: str) -> float:
    """Return what a teacher of this size adds to a step: the taught step less the plain one, as calibrated."""
    both = entry["teacher_seconds_per_step"].get(teacher_size)
    if both is None:
        raise StudyError(
            f"a {entry['size']} student of {teacher_size} is not calibrated; run `python -m stages.calibrate --study "
            f"{entry['study']}`, then `tlc plan --write`"
        )
    return max(0.0, float(both) - calibrated(entry))
