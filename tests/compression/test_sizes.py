"""Bytes on disk against the formulas."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from transformers.models.m2m_100 import M2M100ForConditionalGeneration

from pipeline.compression.formats import save_compressed, size_bytes, stored_numbers, weights_file
from pipeline.compression.pruning import kept_count
from pipeline.compression.sizes import (
    compression_ratio,
    dense_size_bytes,
    entropy_coded_bytes,
    parameter_shapes,
    size_bytes_theory,
)
from tests.candidates import compressed

CASES = [(bits, sparsity) for bits in (None, 3, 4, 8) for sparsity in (0.0, 0.5, 0.9) if bits or sparsity]
HEADER_BYTES = 512  # an upper bound, whatever the model


def test_dense_size_is_that_of_the_real_file(model: M2M100ForConditionalGeneration, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    shapes = parameter_shapes(model)
    assert dense_size_bytes(shapes) == size_bytes(tmp_path) == (tmp_path / "model.safetensors").stat().st_size
    assert compression_ratio(shapes, size_bytes(tmp_path)) == 1


@pytest.mark.parametrize("granularity", ["tensor", "row", "group"])
@pytest.mark.parametrize(("bits", "sparsity"), CASES)
def test_a_file_is_theory_plus_the_stated_overhead(
    model: M2M100ForConditionalGeneration, tmp_path: Path, bits: int | None, sparsity: float, granularity: str
) -> None:
    shapes = parameter_shapes(model)
    matrices = [shape for shape in shapes.values() if len(shape) == 2]
    candidate = compressed(model, bits=bits, sparsity=sparsity, granularity=granularity, group_size=24)
    save_compressed(candidate, tmp_path)
    stored_bits, kept = stored_numbers(tmp_path)
    theory = size_bytes_theory(shapes, bits=stored_bits, kept=kept)
    pairs = {
        "tensor": len(matrices),
        "row": sum(rows for rows, _ in matrices),
        "group": sum(rows * math.ceil(columns / 24) for rows, columns in matrices),
    }
    grids = 4 * pairs[granularity] if bits else 0
    bitmasks = sum(math.ceil(math.prod(shape) / 8) for shape in matrices) if sparsity else 0
    measured = size_bytes(tmp_path)
    header = 8 + int.from_bytes(weights_file(tmp_path).read_bytes()[:8], "little")
    unused_bits = measured - header - theory - grids - bitmasks
    assert 0 <= unused_bits <= len(matrices)  # the last byte of each matrix's codes
    assert header <= HEADER_BYTES


def test_theory_counts_kept_numbers_in_their_own_bits() -> None:
    shapes = {"a": (10, 10), "b": (7,), "c": (3, 5)}
    assert size_bytes_theory(shapes, bits={}, kept={}) == 4 * 122
    assert size_bytes_theory(shapes, bits={"a": 3, "c": 3}, kept={}) == math.ceil((115 * 3 + 7 * 32) / 8)
    assert size_bytes_theory(shapes, bits={"a": 2}, kept={}) == math.ceil((100 * 2 + 22 * 32) / 8)
    kept = {"a": kept_count(100, 0.9), "c": kept_count(15, 0.9)}
    assert size_bytes_theory(shapes, bits={"a": 4}, kept=kept) == math.ceil((10 * 4 + (kept["c"] + 7) * 32) / 8)
    with pytest.raises(ValueError, match="no parameters: d"):
        size_bytes_theory(shapes, bits={"d": 3}, kept={})


def test_entropy_coding_finds_what_is_not_random(tmp_path: Path) -> None:
    path = tmp_path / "file"
    random = np.random.default_rng(0)
    path.write_bytes(random.bytes(100_000))
    assert 100_000 <= entropy_coded_bytes(path) <= 100_100
    path.write_bytes(random.binomial(255, 0.5, size=100_000).astype(np.uint8).tobytes())  # 5.05 bits a byte
    assert entropy_coded_bytes(path) == pytest.approx(100_000 * 5.05 / 8, rel=0.02)


def test_half_the_weights_in_fp32_take_less_room_than_all(
    model: M2M100ForConditionalGeneration, tmp_path: Path
) -> None:
    save_compressed(compressed(model, sparsity=0.5), tmp_path)
    assert compression_ratio(parameter_shapes(model), size_bytes(tmp_path)) > 1.3
