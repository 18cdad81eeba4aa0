"""Token ids of many sentences in one flat array, mapped from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StudyError


class TokenArray:
    """Sentences of token ids, without special tokens, in one flat array (memory-mapped where it comes from a file)."""

    def __init__(self, ids: NDArray[np.uint16], offsets: NDArray[np.int64]) -> None:
        self.ids = np.asarray(ids)  # a plain view: indexing a np.memmap costs several times as much
        self.offsets = np.asarray(offsets)
        self.lengths: NDArray[np.int64] = np.diff(self.offsets)

    @classmethod
    def open(cls, stem: Path) -> TokenArray:
        """Map ``<stem>.ids.npy`` and ``<stem>.offsets.npy``; StudyError when one is missing or damaged."""
        arrays = []
        for suffix in ("ids", "offsets"):
            path = stem.with_name(f"{stem.name}.{suffix}.npy")
            try:
                arrays.append(np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None, allow_pickle=False))
            except (OSError, ValueError, EOFError) as error:
                raise StudyError(f"{path}: missing or damaged ({type(error).__name__}); run prepare again") from error
        ids, offsets = arrays
        if ids.dtype != np.uint16 or offsets.dtype != np.int64 or not len(offsets) or offsets[-1] != len(ids):
            raise StudyError(f"{stem}: the offsets do not fit the ids; run prepare again")
        return cls(ids, offsets)

    def save(self, stem: Path) -> None:
        """Write ``<stem>.ids.npy`` (uint16) and ``<stem>.offsets.npy`` (int64, n + 1)."""
        np.save(stem.with_name(f"{stem.name}.ids.npy"), self.ids.astype(np.uint16, copy=False))
        np.save(stem.with_name(f"{stem.name}.offsets.npy"), self.offsets.astype(np.int64, copy=False))

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, indices: NDArray[np.int64]) -> TokenArray:
        """Return these sentences, in this order, as an array of their own."""
        lengths = self.lengths[indices]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        positions = np.repeat(self.offsets[indices] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return TokenArray(self.ids[positions], offsets)

    def __getitem__(self, index: int) -> NDArray[np.uint16]:
        """Return the ids (length,) of one sentence, as a view."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self.ids[self.offsets[index] : self.offsets[index + 1]]
