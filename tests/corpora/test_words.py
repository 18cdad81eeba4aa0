"""Words: what texts are compared by, and which documents hold a sentence."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpora.words import FEWEST_WORDS, holding, words_of


def test_case_and_punctuation_do_not_count() -> None:
    assert (
        words_of("It's GREAT -- really, snake_case!")
        == words_of("it ' s great really snake case")
        == ("it s great really snake case")
    )
    assert words_of("!!!") == "!!!", "what has no words is compared as it is"
    assert words_of("ÉTÉ 1994") == "été 1994"


def test_word_for_word() -> None:
    sentence = "one two three four five six seven eight nine"
    documents = [
        f"zero {sentence} ten",
        sentence,
        "one two three four five six seven eight",
        "one two three four five six seven eight ninety",
        "zone two three four five six seven eight nine",
        "short",
    ]
    assert holding(documents, [sentence]).tolist() == [True, True, False, False, False, False]
    assert not holding(documents, ["one two three"]).any(), "short sentences are found anywhere"
    assert not holding(documents, []).any()


texts = st.lists(st.sampled_from("ab"), min_size=1, max_size=30).map(" ".join)


@settings(deadline=None)
@given(st.lists(texts, max_size=8), st.lists(texts, max_size=8))
def test_same_as_looking_at_each(documents: list[str], sentences: list[str]) -> None:
    looked_for = [sentence for sentence in sentences if len(sentence.split()) >= FEWEST_WORDS]
    plain = [any(f" {sentence} " in f" {document} " for sentence in looked_for) for document in documents]
    assert np.array_equal(holding(documents, sentences), np.array(plain, dtype=bool))


def test_many_documents() -> None:
    sentence = "one two three four five six seven eight"
    documents = ["some other words", f"they say {sentence}", "one two three four", "five six seven eight"] * 600
    assert holding(documents, [sentence]).tolist() == [False, True, False, False] * 600, "never over a document's end"
