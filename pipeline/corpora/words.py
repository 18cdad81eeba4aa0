"""Texts compared by their words alone: what is the same text in all but case and punctuation, and what holds it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.progress import progress

FEWEST_WORDS = 8
"""Shorter sentences are not looked for: long texts hold them by chance."""

_WORD = re.compile(r"[^\W_]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it is 0


def words_of(text: str) -> str:
    """Return a text's words, case folded, with one space between; a text without words stays as it is."""
    return " ".join(_WORD.findall(text.casefold())) or text


def _codes(words: Iterable[str], known: dict[str, int]) -> NDArray[np.uint64]:
    return np.fromiter((known.get(word, 0) for word in words), dtype=np.uint64)


def _window_codes(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a number for every run of FEWEST_WORDS words: a polynomial in them, modulo 2^64."""
    runs = np.lib.stride_tricks.sliding_window_view(codes, FEWEST_WORDS)
    total = np.zeros(len(runs), dtype=np.uint64)
    for column in range(FEWEST_WORDS):
        total = total * _FACTOR + runs[:, column]
    return total


def holding(documents: Sequence[str], sentences: Iterable[str]) -> NDArray[np.bool_]:
    """Return which documents (n,) hold one of the sentences, word for word; both as `words_of` gives them."""
    looked_for = {sentence for sentence in sentences if sentence.count(" ") >= FEWEST_WORDS - 1}
    known: dict[str, int] = {}
    beginnings: dict[int, list[str]] = {}
    for sentence in sorted(looked_for):
        first = sentence.split(" ")[:FEWEST_WORDS]
        for word in first:
            known.setdefault(word, len(known) + 1)
        beginnings.setdefault(int(_window_codes(_codes(first, known))[0]), []).append(sentence)
    wanted = np.array(sorted(beginnings), dtype=np.uint64)
    found = np.zeros(len(documents), dtype=bool)
    for index, document in enumerate(progress(documents, desc="looking for held-out sentences", unit="document")):
        words = document.split(" ")
        if len(words) < FEWEST_WORDS or not len(wanted):
            continue
        codes = _window_codes(_codes(words, known))
        for code in np.unique(codes[np.isin(codes, wanted)]).tolist():
            if any(f" {sentence} " in f" {document} " for sentence in beginnings[code]):
                found[index] = True
    return found
