"""Integers of k bits stored in k bits: a little-endian bit stream in whole bytes.

Value i lies in bits [i k, (i + 1) k) of the stream, its least significant bit first; bit b of the stream is bit b mod 8
of byte b // 8. Bits after the last value are 0. Eight values fill exactly k bytes, so that packing works on groups of
eight through one 64-bit word, for every k from 1 to 8.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes `count` values of `bits` bits take."""
    return (count * bits + 7) // 8


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"cannot pack {bits} bits: 1 to 8 are possible")


def pack_bits(values: npt.NDArray[np.unsignedinteger], bits: int) -> Bytes:
    """Pack unsigned integers below 2**bits, any shape in C order, into a (ceil(n bits / 8),) uint8 array.

    ValueError when `bits` is not in 1..8 or a value does not fit.
    """
    _check_bits(bits)
    flat = np.ascontiguousarray(values).reshape(-1)
    if flat.dtype != np.uint8:
        if flat.size and (flat.min() < 0 or flat.max() > 255):
            raise ValueError(f"a value does not fit in {bits} bits")
        flat = flat.astype(np.uint8)
    if flat.size and int(flat.max()) >> bits:
        raise ValueError(f"a value does not fit in {bits} bits: {int(flat.max())}")
    groups = -(-flat.size // 8)
    padded = np.zeros(groups * 8, dtype=np.uint8)
    padded[: flat.size] = flat
    octets = padded.reshape(groups, 8)
    words = np.zeros(groups, dtype="<u8")
    for position in range(8):
        words |= octets[:, position].astype("<u8") << np.uint64(bits * position)
    stream = words.view(np.uint8).reshape(groups, 8)[:, :bits].reshape(-1)
    return stream[: packed_bytes(flat.size, bits)].copy()


def unpack_bits(packed: Bytes, bits: int, count: int) -> Bytes:
    """Return the (count,) uint8 values that `pack_bits` packed; ValueError when the length or the padding is wrong."""
    _check_bits(bits)
    length = packed_bytes(count, bits)
    if packed.dtype != np.uint8 or packed.shape != (length,):
        raise ValueError(f"{count} values of {bits} bits need {length} bytes, not {packed.size}")
    used = count * bits - 8 * (length - 1)
    if length and int(packed[-1]) >> used:
        raise ValueError("bits are set after the last value")
    groups = -(-count // 8)
    stream = np.zeros(groups * bits, dtype=np.uint8)
    stream[:length] = packed
    words = np.zeros((groups, 8), dtype=np.uint8)
    words[:, :bits] = stream.reshape(groups, bits)
    numbers = words.view("<u8").reshape(-1)
    values = np.empty((groups, 8), dtype=np.uint8)
    low = np.uint64((1 << bits) - 1)
    for position in range(8):
        values[:, position] = (numbers >> np.uint64(bits * position)) & low
    return values.reshape(-1)[:count]


def pack_mask(mask: npt.NDArray[np.bool_]) -> Bytes:
    """Pack booleans, any shape in C order, one bit each."""
    return np.packbits(mask, axis=None, bitorder="little")


def unpack_mask(packed: Bytes, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Return the boolean array of this shape that `pack_mask` packed; ValueError as in `unpack_bits`."""
    return unpack_bits(packed, 1, int(np.prod(shape, dtype=np.int64))).view(np.bool_).reshape(shape)
