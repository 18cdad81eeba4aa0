"""How many bytes a model takes: dense, in theory, and as ratios."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.compression.pruning import kept_count
from pipeline.compression.quantization import check_bits

if TYPE_CHECKING:
    from torch import nn

Shapes = Mapping[str, tuple[int, ...]]


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by name, in the model's order, tied ones once under their first name."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


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


def size_bytes_theory(shapes: Shapes, *, bits: int | None, sparsity: float = 0.0) -> int:
    """Return the bytes of the numbers alone: kept weights of every matrix in `bits` bits (None: 32), the rest in fp32.

    Not counted: masks, the rows' fp16 pairs, file headers. What a file really takes is its `size_bytes`.
    """
    if bits is not None:
        check_bits(bits)
    total_bits = 0
    for shape in shapes.values():
        count = math.prod(shape)
        total_bits += kept_count(count, sparsity) * (bits or 32) if len(shape) == 2 else count * 32
    return -(-total_bits // 8)


def compression_ratio(shapes: Shapes, size_bytes: int) -> float:
    """Return the dense fp32 bytes of the unpruned architecture over the bytes written."""
    return dense_size_bytes(shapes) / size_bytes


def effective_bits(size_bytes: int, params_total: int) -> float:
    """Return the bits a parameter that a file spends, with everything in it; pruned parameters count as parameters."""
    return 8 * size_bytes / params_total
