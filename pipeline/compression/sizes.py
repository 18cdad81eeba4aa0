"""How many bytes a model takes: dense, in theory, entropy-coded, and as ratios."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.models.parameters import stored_parameters

if TYPE_CHECKING:
    from torch import nn

Shapes = Mapping[str, tuple[int, ...]]

ZSTD_LEVEL = 19
"""Up to 2 % smaller files than level 10, in about a tenth of a second a megabyte."""


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of every stored parameter by name, in the model's order, tied ones once under their first name."""
    return {name: tuple(parameter.shape) for name, parameter in stored_parameters(model).items()}


def dense_size_bytes(shapes: Shapes) -> int:
    """Return the size in bytes of an unpruned model's fp32 `model.safetensors`, header included, without writing it.

    The layout is safetensors': eight bytes of length, a JSON header filled up to a multiple of eight, the tensors by
    name.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + 4 * math.prod(shapes[name])
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + end


def size_bytes_theory(shapes: Shapes, *, bits: Mapping[str, int], kept: Mapping[str, int]) -> int:
    """Return the bytes of the numbers alone: of every parameter its kept weights, in its bits.

    By name: `bits` a weight of what is quantized (else 32), and how many weights are `kept` of what is pruned (else
    all); pipeline.compression.formats.stored_numbers reads both from a file. Not counted: masks, the grids' fp16 pairs,
    ranges of activations, file headers. What a file really takes is its `size_bytes`.
    """
    unknown = (set(bits) | set(kept)) - set(shapes)
    if unknown:
        raise ValueError(f"these are no parameters: {', '.join(sorted(unknown))}")
    total_bits = sum(kept.get(name, math.prod(shape)) * bits.get(name, 32) for name, shape in shapes.items())
    return -(-total_bits // 8)


def entropy_coded_bytes(path: str | Path) -> int:
    """Return the bytes that a file takes under zstd, whose entropy coder finds what k-bit codes leave unused."""
    import zstandard

    return len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(Path(path).read_bytes()))


def compression_ratio(shapes: Shapes, size_bytes: int) -> float:
    """Return the dense fp32 bytes of the unpruned architecture over the bytes written."""
    return dense_size_bytes(shapes) / size_bytes
