"""Bytes on disk against the formulas."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from transformers.models.m2m_100 import M2M100ForConditionalGeneration

from pipeline.compression.formats import save_compressed, size_bytes, weights_file
from pipeline.compression.pruning import compressible, kept_count, magnitude_masks
from pipeline.compression.sizes import (
    compression_ratio,
    dense_size_bytes,
    effective_bits,
    parameter_shapes,
    size_bytes_theory,
)
from pipeline.errors import StudyError

CASES = [(bits, sparsity) for bits in (None, 3, 4, 8) for sparsity in (0.0, 0.5, 0.9) if bits or sparsity]
HEADER_BYTES = 512  # an upper bound, whatever the model


def test_dense_size_is_that_of_the_real_file(model: M2M100ForConditionalGeneration, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    shapes = parameter_shapes(model)
    assert dense_size_bytes(shapes) == size_bytes(tmp_path) == (tmp_path / "model.safetensors").stat().st_size
    assert compression_ratio(shapes, size_bytes(tmp_path)) == 1


@pytest.mark.parametrize(("bits", "sparsity"), CASES)
def test_a_file_is_theory_plus_the_stated_overhead(
    model: M2M100ForConditionalGeneration, tmp_path: Path, bits: int | None, sparsity: float
) -> None:
    shapes = parameter_shapes(model)
    matrices = [shape for shape in shapes.values() if len(shape) == 2]
    masks = magnitude_masks(compressible(model), sparsity) if sparsity else None
    save_compressed(model, tmp_path, bits=bits, masks=masks)
    theory = size_bytes_theory(shapes, bits=bits, sparsity=sparsity)
    rows = sum(shape[0] for shape in matrices) * 4 if bits else 0
    bitmasks = sum(math.ceil(math.prod(shape) / 8) for shape in matrices) if sparsity else 0
    measured = size_bytes(tmp_path)
    header = 8 + int.from_bytes(weights_file(tmp_path).read_bytes()[:8], "little")
    unused_bits = measured - header - theory - rows - bitmasks
    assert 0 <= unused_bits <= len(matrices)  # the last byte of each matrix's codes
    assert header <= HEADER_BYTES


def test_theory_counts_kept_numbers_only() -> None:
    shapes = {"a": (10, 10), "b": (7,), "c": (3, 5)}
    assert size_bytes_theory(shapes, bits=None) == 4 * 122
    assert size_bytes_theory(shapes, bits=3) == math.ceil((115 * 3 + 7 * 32) / 8)
    kept = kept_count(100, 0.9) + kept_count(15, 0.9)
    assert size_bytes_theory(shapes, bits=4, sparsity=0.9) == math.ceil((kept * 4 + 7 * 32) / 8)
    with pytest.raises(StudyError):
        size_bytes_theory(shapes, bits=9)
    with pytest.raises(StudyError):
        size_bytes_theory(shapes, bits=4, sparsity=1.0)


def test_half_the_weights_in_fp32_take_less_room_than_all(
    model: M2M100ForConditionalGeneration, tmp_path: Path
) -> None:
    save_compressed(model, tmp_path, bits=None, masks=magnitude_masks(compressible(model), 0.5))
    assert compression_ratio(parameter_shapes(model), size_bytes(tmp_path)) > 1.3


def test_effective_bits() -> None:
    assert effective_bits(1000, 2000) == 4
