"""How many bits each matrix of a model gets, as a step that quantizes says it."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from pipeline.compression.pruning import compressible
from pipeline.recipes import FP32_BITS

EMBEDDING = "model.shared.weight"
"""The embedding, which is also the output projection."""


class Choice(Protocol):
    """The settings that say it; see pipeline.recipes."""

    @property
    def bits(self) -> int:
        """Of a matrix."""
        ...

    @property
    def embedding_bits(self) -> int | None:
        """Of the embedding; None: as the others."""
        ...

    @property
    def keep(self) -> list[str]:
        """Parts of the names of matrices that stay in fp32."""
        ...


def chosen_bits(model: nn.Module, step: Choice) -> dict[str, int]:
    """Return the bits of every matrix that is quantized, by name, in the model's order."""
    bits = {name: step.bits for name in compressible(model) if not any(part in name for part in step.keep)}
    if EMBEDDING in bits and step.embedding_bits is not None:
        bits[EMBEDDING] = step.embedding_bits
    return {name: width for name, width in bits.items() if width != FP32_BITS}
