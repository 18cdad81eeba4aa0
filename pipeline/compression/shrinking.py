"""A large model's own weights as the start of a smaller one: layers, width and FFN columns removed, in this order.

For students that begin as a part of their teacher (Shleifer and Rush 2020, arXiv 2010.13002; Minitron, Muralidharan et
al. 2024, arXiv 2407.14679). Every part goes by the rules of its compression method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compression.methods.ffn import keep_ffn
from pipeline.compression.methods.layers import keep_layers
from pipeline.compression.methods.width import keep_width
from pipeline.errors import StudyError
from pipeline.size import SizeSpec

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


def check_shrinkable(size_from: SizeSpec, size_to: SizeSpec) -> None:
    """Raise StudyError unless one shape can be cut out of the other: nothing grows, and heads keep their columns."""
    for size in (size_from, size_to):
        if not size.is_standard:
            raise StudyError(f"size {size.key} has heads that do not fill its width; shrink between standard shapes")
    if size_from.head_dim != size_to.head_dim:
        raise StudyError(
            f"size {size_from.key} has {size_from.head_dim} columns a head and {size_to.key} has {size_to.head_dim}; "
            "heads go whole, so choose sizes with as many columns a head"
        )
    for dimension in ("num_layers", "d_model", "ffn_dim"):
        large, small = getattr(size_from, dimension), getattr(size_to, dimension)
        if small > large:
            raise StudyError(
                f"{dimension} would grow from {large} ({size_from.key}) to {small} ({size_to.key}); choose a larger teacher"
            )


def shrink_to(model: Model, size_from: SizeSpec, size_to: SizeSpec) -> Model:
    """Return a new model of `size_to` made of the weights of `model`, which is of `size_from`; equal sizes: `model` itself.

    StudyError when a dimension would have to grow, when the columns a head differ, or on shapes with pruned heads.
    """
    check_shrinkable(size_from, size_to)
    size = size_from
    for keep, dimensions in (
        (keep_layers, ("num_layers",)),
        (keep_width, ("d_model", "num_heads")),
        (keep_ffn, ("ffn_dim",)),
    ):
        target = size.changed(**{name: getattr(size_to, name) for name in dimensions})
        if target != size:
            model, size = keep(model, target), target
    return model
