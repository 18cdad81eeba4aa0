"""Raw lines become clean pairs: decoded, normalised, filtered; everything dropped is counted."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StudyError
from pipeline.progress import progress

RawPair = tuple[int, bytes | str | None, bytes | str | None]
"""(line number from 1, source, target); a side that the line does not have is None."""

COUNTS = ("raw", "malformed", "bad_utf8", "empty", "duplicate", "kept")


@dataclass(frozen=True, kw_only=True)
class CleanPairs:
    """Aligned sentences with the number of the line, in `where`, that each pair came from."""

    sources: list[str]
    targets: list[str]
    numbers: NDArray[np.int64]
    where: str

    def __len__(self) -> int:
        return len(self.sources)

    def take(self, indices: NDArray[np.int64]) -> CleanPairs:
        """Return the pairs at these positions, in this order."""
        chosen = indices.tolist()
        return CleanPairs(
            sources=[self.sources[i] for i in chosen],
            targets=[self.targets[i] for i in chosen],
            numbers=self.numbers[indices],
            where=self.where,
        )


def normalise(text: str) -> str:
    """Return `text` in Unicode NFC, with every run of white space as one space and none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def clean(
    pairs: Iterable[RawPair], *, where: str, on_empty: str = "drop", on_bad_utf8: str = "drop", total: int | None = None
) -> tuple[CleanPairs, dict[str, int]]:
    """Return the usable, distinct pairs in order, and counts: raw = malformed + bad_utf8 + empty + duplicate + kept.

    `on_bad_utf8="replace"` keeps such lines with U+FFFD and counts them under bad_utf8_replaced. StudyError, with the
    line's number, where a policy is "error", and when nothing is left.
    """
    counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    seen: dict[tuple[str, str], None] = {}
    numbers: list[int] = []
    for number, *sides in progress(pairs, desc="cleaning", unit="pair", total=total):
        counts["raw"] += 1
        if sides[0] is None or sides[1] is None:
            counts["malformed"] += 1
            continue
        texts, bad = [], False
        for side in sides:
            if isinstance(side, bytes):
                try:
                    side = side.decode("utf-8")
                except UnicodeDecodeError:
                    bad = True
                    side = side.decode("utf-8", errors="replace")
            texts.append(normalise(side))
        if bad:
            if on_bad_utf8 == "error":
                raise StudyError(
                    f"{where}, line {number}: not valid UTF-8; mend it or set corpus.on_bad_utf8: drop or replace"
                )
            if on_bad_utf8 == "drop":
                counts["bad_utf8"] += 1
                continue
            counts["bad_utf8_replaced"] += 1
        if not texts[0] or not texts[1]:
            if on_empty == "error":
                name = "target" if texts[0] else "source"
                raise StudyError(f"{where}, line {number}: the {name} is empty; mend it or set corpus.on_empty: drop")
            counts["empty"] += 1
            continue
        pair = (texts[0], texts[1])
        if pair in seen:
            counts["duplicate"] += 1
            continue
        seen[pair] = None
        counts["kept"] += 1
        numbers.append(number)
    if not numbers:
        found = ", ".join(f"{counts[name]} {name}" for name in ("malformed", "bad_utf8", "empty") if counts[name])
        raise StudyError(
            f"{where}: no usable sentence pair in {counts['raw']} lines{f' ({found})' if found else ''}; "
            "check the path, and the columns of the source and the target"
        )
    return (
        CleanPairs(
            sources=[source for source, _ in seen],
            targets=[target for _, target in seen],
            numbers=np.array(numbers, dtype=np.int64),
            where=where,
        ),
        dict(counts),
    )
