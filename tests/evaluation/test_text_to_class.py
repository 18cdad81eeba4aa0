"""From text to ids: a finished model is given what it was finetuned on."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.corpora.encoder_preparation import fitted
from pipeline.corpora.token_array import TokenArray
from pipeline.corpora.tokenizer import encode, train_encoder_tokenizer
from pipeline.evaluation.text_to_class import SentenceEncoder


@pytest.mark.parametrize("max_tokens", [16, 17])
def test_pairs_are_cut_as_the_tokenizers_library_cuts_them(max_tokens: int) -> None:
    """What prepare writes and what a finished model is given are the same ids, an odd token included."""
    rng = np.random.default_rng(0)
    words = ["a", "bad", "good", "film", "was", "this"]
    pairs = [tuple(" ".join(rng.choice(words, size=n)) for n in rng.integers(1, 20, size=2)) for _ in range(80)]
    tokenizer = train_encoder_tokenizer([side for pair in pairs for side in pair], vocab_size=270)
    sides = [TokenArray(*encode(tokenizer, [pair[side] for pair in pairs], literally=True)) for side in (0, 1)]
    found, _ = fitted(*sides, max_tokens=max_tokens)
    given = SentenceEncoder(tokenizer, max_tokens=max_tokens)(["\t".join(pair) for pair in pairs])
    assert [ids[1:-1] for ids in given] == [found[i].tolist() for i in range(len(found))]
