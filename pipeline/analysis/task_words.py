"""What a study's task is called by, on the page and in figures: its quality, its losses, its models."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import StudyError, nearest


@dataclass(frozen=True, kw_only=True)
class Words:
    """What two tasks call differently; what is the same for both stands where it is said."""

    quality: str
    """The score's name in a sentence."""
    quality_axis: str
    """The same over a column or along an axis."""
    quality_unit: str
    """What stands behind its numbers."""
    quality_points: str
    """What its differences are counted in."""
    loss_axis: str
    """The loss on labelled or translated sentences along an axis, with what it is a mean over."""
    loss_ticks: tuple[float, ...]
    """Where logarithmic axes of losses are labelled, in each decade."""
    trained_loss_axis: str
    """The loss that pretraining lowers, likewise."""
    trained_loss: str
    """The same in a sentence."""
    stacks: int
    """Of layers: an encoder and a decoder, or one encoder."""
    trained_at_that_shape: str
    """How a model came to be whose shape another was pruned to."""
    left_out: str
    """Behind ``every configuration``: those that nothing is chosen among."""
    every_row_scored: bool
    """Whether each row has its quality, or the chosen ones and one curve a size."""

    @property
    def quality_heading(self) -> str:
        """The score's name at the head of a column."""
        return self.quality_axis[0].upper() + self.quality_axis[1:]

    def layers(self, count: int) -> str:
        """Write a depth: ``2+2 layers`` of an encoder and a decoder, ``2 layers`` of an encoder."""
        return f"{'+'.join([str(count)] * self.stacks)} layer{'s' if count * self.stacks > 1 else ''}"


WORDS = {
    "translation": Words(
        quality="BLEU",
        quality_axis="BLEU",
        quality_unit="",
        quality_points="BLEU",
        loss_axis="test loss (nats a token)",
        loss_ticks=(1, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
        trained_loss_axis="validation loss (nats a token)",
        trained_loss="validation loss",
        stacks=2,
        trained_at_that_shape="trained from scratch",
        left_out="students left out",
        every_row_scored=False,
    ),
    "classification": Words(
        quality="accuracy",
        quality_axis="accuracy (%)",
        quality_unit=" %",
        quality_points="points of accuracy",
        loss_axis="test loss (nats a sentence)",
        loss_ticks=(1, 1.2, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8),
        trained_loss_axis="pretraining loss (nats a masked token)",
        trained_loss="validation loss in pretraining",
        stacks=1,
        trained_at_that_shape="pretrained and finetuned at that size",
        left_out="models without pretraining left out",
        every_row_scored=True,
    ),
}


def words_of(task: str) -> Words:
    """Return the words of an entry's `task`; StudyError names the nearest known one."""
    if task not in WORDS:
        raise StudyError(f"no report is known for task {task!r}{nearest(task, WORDS)}; run `tlc plan --write`")
    return WORDS[task]
