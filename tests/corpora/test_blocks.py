"""Blocks: every token once and in order, a </s> between documents, the document that each begins with."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora.blocks import cut_blocks
from pipeline.corpora.token_array import TokenArray

documents = st.lists(st.lists(st.integers(5, 99), min_size=1, max_size=15), min_size=1, max_size=12)


def array_of(rows: list[list[int]]) -> TokenArray:
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return TokenArray(np.array([i for row in rows for i in row], dtype=np.uint16), offsets)


def test_where_documents_end() -> None:
    blocks, first = cut_blocks(array_of([[10, 11, 12], [20], [30, 31]]), 3, endless=False)
    assert [blocks[i].tolist() for i in range(len(blocks))] == [[10, 11, 12], [2, 20, 2], [30, 31]]
    assert first.tolist() == [0, 1, 2], "a separator counts to the document behind it"
    blocks, _ = cut_blocks(array_of([[10, 11, 12], [20], [30, 31]]), 5, endless=True)
    assert [blocks[i].tolist() for i in range(len(blocks))] == [[10, 11, 12, 2, 20], [2, 30, 31, 2, 10]]
    blocks, _ = cut_blocks(array_of([[10]]), 5, endless=True)
    assert blocks[0].tolist() == [10, 2, 10, 2, 10]


@given(documents, st.integers(2, 20))
def test_no_token_is_lost(rows: list[list[int]], length: int) -> None:
    text: list[int] = []
    owner: list[int] = []
    for number, row in enumerate(rows):
        if number:
            text.append(2)
            owner.append(number)
        text += row
        owner += [number] * len(row)
    blocks, first = cut_blocks(array_of(rows), length, endless=False)
    assert blocks.ids.tolist() == text
    assert set(blocks.lengths[:-1].tolist()) <= {length}
    assert 1 <= blocks.lengths[-1] <= length
    assert first.tolist() == owner[::length]
    assert all((blocks[i] >= 5).any() for i in range(len(blocks))), "something to score in every block"
    endless, _ = cut_blocks(array_of(rows), length, endless=True)
    assert set(endless.lengths.tolist()) == {length}
    assert len(endless.ids) - len(text) - 1 < length
    assert endless.ids.tolist() == [*text, 2, *text, 2, *([*text, 2] * length)][: len(endless.ids)]
