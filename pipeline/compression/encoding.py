"""A compressed model's numbers as flat tensors, one a kind, and back.

Each tensor holds the parts of all parameters one after another, in the order of the model's named_parameters (tied
parameters once):

    values            fp32: the vectors, and the kept weights of matrices that are not quantized, in C order
    codes             uint8: a matrix's kept weights in C order, packed in k bits, up to a whole byte
    scale, minimum    fp16, one a row, a group or a matrix, beside codes
    mask              uint8: a matrix's bits in C order, 1 where kept, up to a whole byte; only of pruned matrices
    ranges            fp32: minimum and scale of every linear layer whose inputs are rounded

A kind that nothing needs is absent. What each matrix is, is one word: `4r` 4 bits by row, `3g64m` 3 bits in groups of
64 columns and pruned, `8t` 8 bits on one grid, `32` and `32m` not quantized. Equal words are written once: a whole
model's take some tens of bytes, where an entry a part would take tens of kilobytes, a tenth of the smallest models.
Where a part ends follows from its shape, its word, and the number of ones in its mask.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.compression.packing import pack_bits, pack_mask, packed_bytes, unpack_bits, unpack_mask
from pipeline.compression.quantization import Floats, Granularity, Mask, QuantizedTensor, dequantize, pairs_of

KINDS = {
    "codes": np.uint8,
    "scale": np.float16,
    "minimum": np.float16,
    "mask": np.uint8,
    "values": np.float32,
    "ranges": np.float32,
}

Array = npt.NDArray[Any]

_LETTERS = string.ascii_letters
_GRANULARITIES: dict[str, Granularity] = {"t": "tensor", "r": "row", "g": "group"}
_WORDS = {"words": list, "order": str}


@dataclass(frozen=True, kw_only=True)
class MatrixEncoding:
    """How one matrix is written."""

    bits: int | None  # None: fp32
    granularity: Granularity = "row"
    group_size: int = 0
    masked: bool = False

    @classmethod
    def of(cls, quantized: QuantizedTensor | None, mask: Mask | None) -> MatrixEncoding:
        """Return the encoding of a matrix that is quantized or not, pruned or not."""
        if quantized is None:
            return cls(bits=None, masked=mask is not None)
        return cls(
            bits=quantized.bits,
            granularity=quantized.granularity,
            group_size=quantized.group_size,
            masked=quantized.mask is not None,
        )

    @classmethod
    def from_word(cls, word: str) -> MatrixEncoding:
        """Return what a word says; ValueError when it says nothing."""
        found = re.fullmatch(r"(32|([2-8])(?:([tr])|(g)([1-9]\d{0,8})))(m?)", word, re.ASCII)
        if not found:
            raise ValueError(f"{word!r} is no encoding of a matrix")
        bits, granularity = found[2], found[3] or found[4] or "r"
        return cls(
            bits=int(bits) if bits else None,
            granularity=_GRANULARITIES[granularity],
            group_size=int(found[5] or 0),
            masked=bool(found[6]),
        )

    @property
    def word(self) -> str:
        """``4r``, ``3g64m``, ``32``."""
        mask = "m" if self.masked else ""
        return f"{self.bits}{self.granularity[0]}{self.group_size or ''}{mask}" if self.bits else f"32{mask}"


def write_words(words: Sequence[str]) -> dict[str, Any]:
    """Return words as JSON: each different one once, and a letter a word in their order, its repetitions counted."""
    different = list(dict.fromkeys(words))
    if len(different) > len(_LETTERS):
        raise ValueError(f"{len(different)} different encodings in one model; {len(_LETTERS)} can be told apart")
    letters = dict(zip(different, _LETTERS, strict=False))
    runs = [(letters[word], len(list(run))) for word, run in groupby(words)]
    return {"words": different, "order": "".join(f"{letter}{count if count > 1 else ''}" for letter, count in runs)}


def read_words(data: Any, count: int) -> list[str]:
    """Return the `count` words that `write_words` wrote; ValueError when it cannot have written `data`."""
    if not isinstance(data, dict) or not all(isinstance(data.get(key), kind) for key, kind in _WORDS.items()):
        raise ValueError("no words in its metadata")
    words, order = data["words"], data["order"]
    if not re.fullmatch(r"([a-zA-Z]([1-9]\d{0,4})?)*", order, re.ASCII):
        raise ValueError(f"{order!r} is no order of words")
    runs = [(_LETTERS.index(letter), int(times or 1)) for letter, times in re.findall(r"([a-zA-Z])(\d*)", order)]
    if sum(times for _, times in runs) != count:
        raise ValueError(f"{sum(times for _, times in runs)} words, not {count}")
    if any(place >= len(words) or not isinstance(words[place], str) for place, _ in runs):
        raise ValueError(f"{order!r} names words that are not there")
    return [words[place] for place, times in runs for _ in range(times)]


def encode(weight: Floats, quantized: QuantizedTensor | None, mask: Mask | None) -> dict[str, Array]:
    """Return the flat parts of a parameter by kind; codes are written as they are."""
    if quantized is None:
        parts: dict[str, Array] = {} if mask is None else {"mask": pack_mask(mask)}
        return parts | {"values": weight.reshape(-1) if mask is None else weight[mask]}
    parts = {} if quantized.mask is None else {"mask": pack_mask(quantized.mask)}
    kept = quantized.codes if quantized.mask is None else quantized.codes[quantized.mask]
    return parts | {
        "codes": pack_bits(kept, quantized.bits),
        "scale": quantized.scale,
        "minimum": quantized.minimum,
    }


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """One parameter as it was written: fp32 `values` of its shape, or codes; and which weights are kept."""

    values: Floats | None
    quantized: QuantizedTensor | None
    mask: Mask | None

    def weight(self) -> Floats:
        """Return the parameter's fp32 values, whichever way it was written."""
        if self.quantized is not None:
            return dequantize(self.quantized)
        assert self.values is not None
        return self.values


class PartsReader:
    """The tensors of a file, taken piece by piece in the order in which they were put together."""

    def __init__(self, tensors: Mapping[str, Array], encodings: Sequence[MatrixEncoding], *, ranges: int) -> None:
        """ValueError unless the tensors are exactly the kinds that these encodings and ranges need, of their types."""
        needed = {"values"}
        if any(encoding.bits for encoding in encodings):
            needed |= {"codes", "scale", "minimum"}
        if any(encoding.masked for encoding in encodings):
            needed |= {"mask"}
        if ranges:
            needed |= {"ranges"}
        if set(tensors) != needed:
            raise ValueError(f"it consists of {', '.join(sorted(tensors))}")
        for kind, tensor in tensors.items():
            if tensor.dtype != KINDS[kind] or tensor.ndim != 1:
                raise ValueError(f"{kind} is {tensor.dtype} of shape {tensor.shape}")
        self._rest = dict(tensors)

    def take(self, kind: str, count: int) -> Array:
        """Return the next `count` numbers of a kind; ValueError when fewer are left."""
        part, self._rest[kind] = np.split(self._rest[kind], [count])
        if part.size != count:
            raise ValueError(f"{part.size} {kind} are left, not {count}")
        return part

    def vector(self, shape: tuple[int, ...]) -> Decoded:
        """Return the next parameter that is no matrix."""
        return Decoded(values=self.take("values", math.prod(shape)).reshape(shape), quantized=None, mask=None)

    def matrix(self, shape: tuple[int, ...], encoding: MatrixEncoding) -> Decoded:
        """Return the next matrix; ValueError when what is left does not make one."""
        count = math.prod(shape)
        mask: Mask | None = None
        if encoding.masked:
            mask = unpack_mask(self.take("mask", packed_bytes(count, 1)), shape)
            count = int(mask.sum())
        kept = np.ones(shape, dtype=np.bool_) if mask is None else mask
        if encoding.bits is None:
            values = np.zeros(shape, dtype=np.float32)
            values[kept] = self.take("values", count)
            return Decoded(values=values, quantized=None, mask=mask)
        codes = np.zeros(shape, dtype=np.uint8)
        codes[kept] = unpack_bits(self.take("codes", packed_bytes(count, encoding.bits)), encoding.bits, count)
        pairs = pairs_of(shape, encoding.granularity, encoding.group_size)
        scale, minimum = (self.take(kind, pairs) for kind in ("scale", "minimum"))
        quantized = QuantizedTensor(
            bits=encoding.bits,
            scale=scale,
            minimum=minimum,
            granularity=encoding.granularity,
            group_size=encoding.group_size,
            codes=codes,
            mask=mask,
        )
        return Decoded(values=None, quantized=quantized, mask=mask)

    def finish(self) -> None:
        """Raise ValueError if anything is left."""
        for kind, rest in self._rest.items():
            if rest.size:
                raise ValueError(f"{rest.size} {kind} are left over")
