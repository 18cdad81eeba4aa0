"""k-bit packing against a literal bit-by-bit reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compression.packing import pack_bits, pack_mask, packed_bytes, unpack_bits, unpack_mask


def literal_pack(values: list[int], bits: int) -> bytes:
    stream = [value >> place & 1 for value in values for place in range(bits)]
    stream += [0] * (-len(stream) % 8)
    return bytes(sum(bit << place for place, bit in enumerate(stream[i : i + 8])) for i in range(0, len(stream), 8))


@st.composite
def numbers(draw: st.DrawFn) -> tuple[int, list[int]]:
    bits = draw(st.integers(1, 8))
    return bits, draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))


@given(numbers())
def test_packing_is_the_literal_bit_stream_and_reverses(case: tuple[int, list[int]]) -> None:
    bits, values = case
    packed = pack_bits(np.array(values, dtype=np.uint8), bits)
    assert packed.tobytes() == literal_pack(values, bits)
    assert packed.size == packed_bytes(len(values), bits) == -(-len(values) * bits // 8)
    assert unpack_bits(packed, bits, len(values)).tolist() == values


@given(st.lists(st.booleans(), max_size=50))
def test_a_mask_is_one_bit_packing(kept: list[bool]) -> None:
    mask = np.array(kept, dtype=np.bool_)
    assert pack_mask(mask).tobytes() == literal_pack([int(bit) for bit in kept], 1)
    assert unpack_mask(pack_mask(mask), mask.shape).tolist() == kept


def test_shapes_and_wider_integers_pack_in_c_order() -> None:
    values = np.arange(12, dtype=np.uint32).reshape(3, 4).T
    assert pack_bits(values, 4).tobytes() == literal_pack([0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11], 4)


@pytest.mark.parametrize("values", [np.array([8], dtype=np.uint8), np.array([256], dtype=np.uint16), np.array([-1])])
def test_a_value_too_large_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="does not fit in 3 bits"):
        pack_bits(values, 3)


@pytest.mark.parametrize("bits", [0, 9])
def test_bits_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="1 to 8"):
        pack_bits(np.zeros(3, dtype=np.uint8), bits)
    with pytest.raises(ValueError, match="1 to 8"):
        unpack_bits(np.zeros(3, dtype=np.uint8), bits, 3)


def test_wrong_length_and_bits_after_the_end_are_refused() -> None:
    packed = pack_bits(np.array([1, 2, 3], dtype=np.uint8), 3)
    with pytest.raises(ValueError, match="need 2 bytes"):
        unpack_bits(packed[:1], 3, 3)
    packed[-1] |= 0x80
    with pytest.raises(ValueError, match="after the last value"):
        unpack_bits(packed, 3, 3)
