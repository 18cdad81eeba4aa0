"""Cleaning: what is kept is normal, what is dropped is counted, what is an error names its line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora.cleaning import RawPair, clean, normalise
from pipeline.errors import StudyError

RAW: list[RawPair] = [
    (1, b"Go.", b"Va !"),
    (2, b"Go.  ", "Va\u202f!".encode()),  # a repetition once white space is normal
    (3, b"\xff\xfe", b"Bonjour."),
    (4, b"Hi.", b" \t "),
    (5, b"Only one column", None),
    (6, "Cafe\u0301".encode(), "Café".encode()),
    (7, None, None),
]


def test_counts_add_up() -> None:
    pairs, counts = clean(RAW, where="x")
    assert counts == {"raw": 7, "malformed": 2, "bad_utf8": 1, "empty": 1, "duplicate": 1, "kept": 2}
    assert counts["raw"] == sum(counts.values()) - counts["raw"]
    assert (pairs.sources, pairs.targets, pairs.numbers.tolist()) == (["Go.", "Café"], ["Va !", "Café"], [1, 6])


def test_replace_keeps_and_counts() -> None:
    pairs, counts = clean(RAW, where="x", on_bad_utf8="replace")
    assert counts["bad_utf8_replaced"] == 1
    assert counts["kept"] == 3
    assert pairs.sources[1] == "\ufffd\ufffd"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"on_bad_utf8": "error"}, r"some\.tsv, line 3: not valid UTF-8.*on_bad_utf8"),
        ({"on_empty": "error"}, r"some\.tsv, line 4: the target is empty.*on_empty"),
    ],
)
def test_errors_name_the_first_line(policy: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        clean(RAW, where="some.tsv", **policy)


@pytest.mark.parametrize("raw", [[], [(1, b"", b"")], [(1, None, None), (2, None, None)]])
def test_nothing_left(raw: list[RawPair]) -> None:
    with pytest.raises(StudyError, match=rf"some\.tsv: no usable sentence pair in {len(raw)} lines.*columns"):
        clean(raw, where="some.tsv")


@given(st.text())
def test_normal_text_stays_on_one_line(text: str) -> None:
    result = normalise(text)
    assert normalise(result) == result
    assert result.splitlines() in ([], [result])


def test_take() -> None:
    pairs, _ = clean(RAW, where="x")
    assert pairs.take(np.array([1])).sources == ["Café"]
