"""Which kinds of training step a study takes, and on which shapes: what calibration has to measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.calibration import word_key
from pipeline.recipes import Family, kind_of_training, shapes_along
from pipeline.size import SizeSpec
from pipeline.study import Study


@dataclass(frozen=True, kw_only=True)
class StepKind:
    """A training step of one kind on one shape; a word-level one has a teacher."""

    kind: Literal["train", "finetune", "qat", "word"]
    size: SizeSpec
    teacher: SizeSpec | None = None

    @property
    def key(self) -> str:
        """``w32x2``, or ``w32x2<-w128x2`` with a teacher: where a calibration keeps its seconds."""
        return word_key(self.size.key, self.teacher.key) if self.teacher else self.size.key


def steps_needed(study: Study, *, teachers: Sequence[SizeSpec]) -> list[StepKind]:
    """Return the kinds of step that a whole study takes, each once; `teachers` are the sizes that may teach its students."""
    needed = [StepKind(kind="train", size=size) for size in study.sizes]
    taught = dict.fromkeys(student.size for student in study.distill.students if student.method != "sequence")
    needed += [
        StepKind(kind="word", size=study.size(student), teacher=teacher) for student in taught for teacher in teachers
    ]
    for size in study.sizes:
        if study.recipe_parent(size) != size:  # finetuned first
            needed.append(StepKind(kind="train", size=study.recipe_parent(size)))
    for family in study.recipes.values():
        for size in study.sizes_of(family):
            needed += steps_of_family(study.recipe_parent(size), family)
    once: dict[tuple[str, str], StepKind] = {}
    for step in needed:
        once.setdefault((step.kind, step.key), step)
    return list(once.values())


def steps_of_family(size: SizeSpec, family: Family) -> list[StepKind]:
    """Return the kinds of step that a family's recipes take on a model of this size, each once.

    A forward pass over a calibration set is priced as a part of a training step, and so needs that of its shape; so does
    a word-level step, of which the teacher's part is what it takes longer.
    """
    return list(dict.fromkeys(_steps(size, family)))


def _steps(size: SizeSpec, family: Family) -> Iterator[StepKind]:
    for steps in family.recipes.values():
        for step, shape, masked in shapes_along(size, steps):
            kind = kind_of_training(step, masked=masked)
            if hasattr(step, "sentences") or kind in ("train", "word"):
                yield StepKind(kind="train", size=shape)
            if kind == "word" and masked:
                yield StepKind(kind="finetune", size=shape)
            if kind is not None and kind != "train":
                yield StepKind(kind=kind, size=shape, teacher=size if kind == "word" else None)
