"""The splits that an encoder learns from: blocks of running text, and sentences with a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.corpora.masking import Masking
from pipeline.corpora.token_array import TokenArray
from pipeline.errors import StudyError

Ints = NDArray[np.int64]
ADDED = 2  # <s> and </s> around every block and sentence


def _array(path: Path, hint: str = "") -> Ints:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise StudyError(f"{path}: missing or damaged{hint}; run prepare again") from error


def _components(directory: Path, name: str) -> Ints:
    return _array(directory / f"{name}-components.npy", " (only valid and test have components)")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode("utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: missing or damaged ({type(error).__name__}); run prepare again") from error


@dataclass(frozen=True, kw_only=True)
class TextSplit:
    """Blocks of running text without their <s> and last </s>; a </s> inside stands between two documents.

    Every block of training is equally long; the last one of validation and test may be shorter.
    """

    name: str
    blocks: TokenArray
    masking: Masking
    directory: Path

    @classmethod
    def open(cls, directory: Path, name: str, *, masking: Masking) -> TextSplit:
        """Map a split of a prepared directory; StudyError when a file is missing or damaged."""
        return cls(
            name=name, blocks=TokenArray.open(directory / f"{name}-blocks"), masking=masking, directory=directory
        )

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def padded_lengths(self) -> Ints:
        """Positions (n,) that each block takes in a batch, <s> and </s> counted."""
        return self.blocks.lengths + ADDED

    def lines(self) -> list[str]:
        """Return the documents, normalised, in order: not one a block."""
        return _lines(self.directory / f"{self.name}.txt")

    def components(self) -> Ints:
        """Return the document (n,) that each block begins with, the unit to resample; validation and test only."""
        return _components(self.directory, self.name)


@dataclass(frozen=True, kw_only=True)
class LabelledSplit:
    """Sentences without their <s> and </s>, each with its class; of two sentences, </s></s> stands between them."""

    name: str
    sentences: TokenArray
    labels: Ints  # (n,), 0 to classes - 1
    classes: int
    directory: Path

    @classmethod
    def open(cls, directory: Path, name: str, *, classes: int) -> LabelledSplit:
        """Map a split of a prepared directory; StudyError when a file is missing or damaged."""
        sentences = TokenArray.open(directory / f"{name}-sentences")
        path = directory / f"{name}-labels.npy"
        labels = _array(path)
        if len(labels) != len(sentences):
            raise StudyError(f"{path}: {len(labels)} labels for {len(sentences)} sentences; run prepare again")
        return cls(name=name, sentences=sentences, labels=labels, classes=classes, directory=directory)

    def __len__(self) -> int:
        return len(self.sentences)

    @property
    def padded_lengths(self) -> Ints:
        """Positions (n,) that each sentence takes in a batch, <s> and </s> counted."""
        return self.sentences.lengths + ADDED

    def lines(self) -> list[str]:
        """Return the sentences, normalised and whole, in order; a tab stands between the two of a pair."""
        path = self.directory / f"{self.name}.txt"
        lines = _lines(path)
        if len(lines) != len(self):
            raise StudyError(f"{path}: {len(lines)} lines for {len(self)} sentences; run prepare again")
        return lines

    def components(self) -> Ints:
        """Return each sentence's component (n,), the unit to resample; validation and test only."""
        return _components(self.directory, self.name)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))


def write_text_split(
    directory: Path, name: str, *, documents: Sequence[str], blocks: TokenArray, components: Ints | None
) -> None:
    """Write one split of running text; components are None for training."""
    blocks.save(directory / f"{name}-blocks")
    _write_lines(directory / f"{name}.txt", documents)
    if components is not None:
        np.save(directory / f"{name}-components.npy", components.astype(np.int64))


def write_labelled_split(
    directory: Path, name: str, *, lines: Sequence[str], sentences: TokenArray, labels: Ints, components: Ints | None
) -> None:
    """Write one split of labelled sentences; components are None for training."""
    sentences.save(directory / f"{name}-sentences")
    np.save(directory / f"{name}-labels.npy", labels.astype(np.int64))
    _write_lines(directory / f"{name}.txt", lines)
    if components is not None:
        np.save(directory / f"{name}-components.npy", components.astype(np.int64))
