"""What a row says of how a candidate's weights are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipeline.compression.candidate import Candidate
from pipeline.compression.pruning import compressible
from pipeline.models.parameters import EMBEDDINGS
from pipeline.recipes import FP32_BITS


def _format(bits: int) -> str:
    return "fp32" if bits == FP32_BITS else str(bits)


def _bits_of(candidate: Candidate) -> dict[str, int]:
    """Return the bits a weight of every matrix; 32 where it is not quantized."""
    widths = dict.fromkeys(compressible(candidate.model), FP32_BITS)
    widths |= {name: quantized.bits for name, quantized in candidate.quantized.items()}
    if candidate.quanto_bits is not None:
        widths |= dict.fromkeys(candidate.weight_errors, candidate.quanto_bits)
    return widths


def quantized_tensors(widths: Mapping[str, int]) -> str:
    """Return in words which tensors have how many bits, from the bits of every matrix by name.

    ``matrices 4, embedding 8, norms and biases fp32``; where matrices differ, ``matrices 4 (2 of 12 fp32)``.
    """
    counts = Counter(bits for name, bits in widths.items() if name not in EMBEDDINGS)
    parts = []
    if counts:
        most = max(counts, key=lambda bits: (counts[bits], -bits))
        others = [f"{counts[bits]} of {counts.total()} {_format(bits)}" for bits in sorted(counts) if bits != most]
        parts.append(f"matrices {_format(most)}" + (f" ({', '.join(others)})" if others else ""))
    tables = {bits for name, bits in widths.items() if name in EMBEDDINGS}
    if tables:
        parts.append(f"embedding {' and '.join(_format(bits) for bits in sorted(tables))}")
    return ", ".join([*parts, "norms and biases fp32"])


def encoding_facts(candidate: Candidate) -> dict[str, Any]:
    """Return a row's `bits, embedding_bits, granularity, group_size, activation_bits, quantized_tensors, weight_error`.

    `bits` is that of most quantized matrices other than the embedding, whose own are the most
    of any of its tables; bits are null for fp32, granularity and group
    size where nothing is quantized, and group size unless all groups are alike. `weight_error` is the mean over the
    quantized matrices of ||W - Q(W)|| / ||W||, each counting once; null where nothing is quantized.
    """
    widths = _bits_of(candidate)
    quantized = Counter(bits for name, bits in widths.items() if name not in EMBEDDINGS and bits != FP32_BITS)
    embedding = max((bits for name, bits in widths.items() if name in EMBEDDINGS), default=FP32_BITS)
    granularities, groups = _grids(candidate)
    activations = {limits.bits for limits in candidate.activations.values()}
    errors = list(candidate.weight_errors.values())
    return {
        "bits": max(quantized, key=lambda bits: (quantized[bits], -bits)) if quantized else None,
        "embedding_bits": None if embedding == FP32_BITS else embedding,
        "granularity": "+".join(sorted(granularities)) or None,
        "group_size": groups.pop() if len(groups) == 1 else None,
        "activation_bits": max(activations) if activations else None,
        "quantized_tensors": quantized_tensors(widths),
        "weight_error": sum(errors) / len(errors) if errors else None,
    }


def _grids(candidate: Candidate) -> tuple[set[str], set[int]]:
    """Return which granularities there are, and the sizes of groups."""
    if candidate.quanto_bits is not None:
        from pipeline.compression.quanto_files import group_sizes

        sizes = group_sizes(candidate.model)
        return {"group" if size else "row" for size in sizes}, {size for size in sizes if size}
    tensors = candidate.quantized.values()
    return {t.granularity for t in tensors}, {t.group_size for t in tensors if t.group_size}
