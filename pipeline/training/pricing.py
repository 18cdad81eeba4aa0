"""What a training step on a batch costs: exact FLOPs from its shapes, device seconds from calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pipeline.budget import Cost
from pipeline.corpora.batches import IGNORED, Batch, BatchStream
from pipeline.flops import Positions, forward_flops, train_flops
from pipeline.size import SizeSpec

Price = Callable[[Batch, int], dict[str, Cost]]
"""(batch, step) -> what that step costs, by purpose."""


def padded_positions(batch: Batch) -> Positions:
    """Return what the device computes for a batch: every position of (B, S) and (B, T), but only real ones scored."""
    count, source_length = batch.source.shape
    return Positions.padded(
        batch=count, source_length=source_length, target_length=batch.labels.shape[1], scored=batch.target_tokens
    )


def step_price(size: SizeSpec, *, vocab_size: int, seconds_per_step: float, purpose: str = "train") -> Price:
    """Return the price of one update, padding included in the FLOPs because the device computes it."""

    def price(batch: Batch, step: int) -> dict[str, Cost]:
        flops = train_flops(size, padded_positions(batch), vocab_size=vocab_size)
        return {purpose: Cost(flops=flops, seconds=seconds_per_step, tokens=batch.trained_tokens, steps=1)}

    return price


def taught_price(own: Price, teacher: SizeSpec, *, vocab_size: int, seconds_per_step: float, until: int) -> Price:
    """Return the price of a student's update with, before step `until`, a teacher's forward pass beside it.

    `seconds_per_step` is what the teacher adds to a step.
    """

    def price(batch: Batch, step: int) -> dict[str, Cost]:
        if step >= until:
            return own(batch, step)
        flops = forward_flops(teacher, padded_positions(batch), vocab_size=vocab_size)
        return own(batch, step) | {"teacher": Cost(flops=flops, seconds=seconds_per_step, tokens=batch.trained_tokens)}

    return price


def total_costs(stream: BatchStream, price: Price) -> Iterator[Cost]:
    """Yield what each step of an endless stream will cost in all, so that a budget can be counted out beforehand."""
    for step, batch in enumerate(stream):
        yield sum(price(batch, step).values(), Cost())


def padding_share(size: SizeSpec, batches: Iterable[Batch], *, vocab_size: int) -> float:
    """Return the share of the batches' training FLOPs that goes into padding: what their sentences alone would not need."""
    padded = needed = 0
    for batch in batches:
        lengths = Positions.unpadded(batch.source_mask.sum(1).numpy(), (batch.labels != IGNORED).sum(1).numpy())
        padded += train_flops(size, padded_positions(batch), vocab_size=vocab_size)
        needed += train_flops(size, lengths, vocab_size=vocab_size)
    return 1 - needed / padded
