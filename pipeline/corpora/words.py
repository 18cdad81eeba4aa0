"""Texts compared by their words alone: what is the same text in all but case and punctuation, and what holds it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from pipeline.progress import progress

FEWEST_WORDS = 8
"""Shorter sentences are not looked for: long texts hold them by chance."""

_WORD = re.compile(r"[^\W_]+")
_CHUNK = 1000
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it is 0


def words_of(text: str) -> str:
    """Return a text's words, case folded, with one space between; a text without words stays as it is."""
    return " ".join(_WORD.findall(text.casefold())) or text


def _codes(words: Sequence[str], known: dict[str, int]) -> NDArray[np.uint64]:
    return np.array(list(map(known.get, words, repeat(0))), dtype=np.uint64)


def _window_codes(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a number for every run of FEWEST_WORDS words: a polynomial in them, modulo 2^64."""
    runs = max(len(codes) - FEWEST_WORDS + 1, 0)
    total = np.zeros(runs, dtype=np.uint64)
    for first in range(FEWEST_WORDS):
        total = total * _FACTOR + codes[first : first + runs]
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
    chunks = range(0, len(documents) if looked_for else 0, _CHUNK)
    for start in progress(chunks, desc="looking for held-out sentences", unit="chunk"):
        split = [document.split(" ") for document in documents[start : start + _CHUNK]]
        codes = _window_codes(_codes([word for words in split for word in words], known))
        places = np.flatnonzero(wanted[np.searchsorted(wanted[:-1], codes)] == codes)
        owners = np.searchsorted(np.cumsum([len(words) for words in split]), places, side="right") + start
        # equal numbers are only likely to be equal words, and a run may go over the end of a document: read the text
        for code, owner in {*zip(codes[places].tolist(), owners.tolist(), strict=True)}:
            if any(f" {sentence} " in f" {documents[owner]} " for sentence in beginnings[code]):
                found[owner] = True
    return found
