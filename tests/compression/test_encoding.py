"""The words that say how matrices are written, and the parts of which a file consists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compression.encoding import MatrixEncoding, PartsReader, encode, read_words, write_words
from pipeline.compression.quantization import Granularity, dequantize, quantize

encodings = st.builds(
    lambda bits, grid, masked: MatrixEncoding(bits=bits, granularity=grid[0], group_size=grid[1], masked=masked),
    st.integers(2, 8),
    st.sampled_from([("tensor", 0), ("row", 0)]) | st.tuples(st.just("group"), st.integers(1, 10**6)),
    st.booleans(),
) | st.builds(lambda masked: MatrixEncoding(bits=None, masked=masked), st.booleans())


@given(encodings)
def test_a_word_says_all_of_an_encoding(encoding: MatrixEncoding) -> None:
    assert MatrixEncoding.from_word(encoding.word) == encoding


@pytest.mark.parametrize("word", ["", "4", "9r", "1r", "4g", "4g064", "4x", "32r", "4rm ", "4rmm", "٤r"])
def test_other_words_say_nothing(word: str) -> None:
    with pytest.raises(ValueError, match="no encoding"):
        MatrixEncoding.from_word(word)


@given(st.lists(st.sampled_from(["4r", "8r", "32", "3g64m"]), max_size=60))
def test_words_come_back_in_their_order(words: list[str]) -> None:
    assert read_words(write_words(words), len(words)) == words


def test_a_models_words_are_short() -> None:
    assert write_words(["8r", *["4r"] * 96]) == {"words": ["8r", "4r"], "order": "ab96"}


def test_more_words_than_letters_are_refused() -> None:
    words = [f"4g{size}" for size in range(1, 54)]
    assert read_words(write_words(words[:52]), 52) == words[:52]
    with pytest.raises(ValueError, match="53 different encodings"):
        write_words(words)


@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 12), encodings), min_size=1, max_size=5),
)
def test_parts_of_several_matrices_and_vectors_come_back(
    seed: int, kinds: list[tuple[int, int, MatrixEncoding]]
) -> None:
    random = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {}
    written = []
    for rows, columns, encoding in kinds:
        weight = random.normal(size=(rows, columns)).astype(np.float32)
        mask = random.random(weight.shape) < 0.5 if encoding.masked else None
        if mask is not None:
            weight[~mask] = 0
        quantized = None
        if encoding.bits:
            granularity: Granularity = encoding.granularity
            quantized = quantize(weight, encoding.bits, granularity, encoding.group_size, mask)
        bias = random.normal(size=rows).astype(np.float32)
        assert MatrixEncoding.of(quantized, mask) == encoding
        written.append((weight if quantized is None else dequantize(quantized), mask, bias))
        for part in (encode(weight, quantized, mask), encode(bias, None, None)):
            for kind, values in part.items():
                parts.setdefault(kind, []).append(values)
    tensors = {kind: np.concatenate(pieces) for kind, pieces in parts.items()}
    reader = PartsReader(tensors, [encoding for _, _, encoding in kinds], ranges=0)
    for (rows, columns, encoding), (weight, mask, bias) in zip(kinds, written, strict=True):
        decoded = reader.matrix((rows, columns), encoding)
        assert np.array_equal(decoded.weight(), weight)
        assert (decoded.mask is None) == (mask is None)
        assert mask is None or np.array_equal(decoded.mask, mask)
        assert np.array_equal(reader.vector((rows,)).weight(), bias)
    reader.finish()
