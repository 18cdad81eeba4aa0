"""The tokenizers: exact both ways on any text, the same after saving, special tokens in their places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora.cleaning import normalise
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.corpora.tokenizer import (
    ENCODER_SPECIAL_TOKENS,
    SPECIAL_TOKENS,
    UNK_ID,
    encode,
    load_tokenizer,
    train_encoder_tokenizer,
    train_tokenizer,
)
from pipeline.errors import StudyError

LINES = ["The house is l'homme.", "J'ai vu la maison, n'est-ce pas ?", "Don't see 1999 houses!", ""] * 20


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> object:
    path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(LINES, vocab_size=290).save_pretrained(str(path))
    return load_tokenizer(path)


def test_special_tokens(tokenizer: object) -> None:
    assert tokenizer.convert_ids_to_tokens(range(4)) == list(SPECIAL_TOKENS)
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert len(tokenizer) == 290
    ids = tokenizer("The house")["input_ids"]
    assert ids[-1] == 2
    assert tokenizer("The house", add_special_tokens=False)["input_ids"] == ids[:-1]


def test_saving_changes_nothing(tmp_path: Path) -> None:
    made = train_tokenizer(LINES, vocab_size=290)
    made.save_pretrained(str(tmp_path))
    again = load_tokenizer(tmp_path)
    for left, right in zip(encode(made, LINES), encode(again, LINES), strict=True):
        assert np.array_equal(left, right)


def test_a_first_word_has_the_token_that_it_has_elsewhere(tokenizer: object) -> None:
    first, second = np.split(np.array(tokenizer.tokenize("house house")), 2)
    assert first.tolist() == second.tolist()


@pytest.fixture(scope="module")
def encoder_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> object:
    path = tmp_path_factory.mktemp("encoder-tokenizer")
    train_encoder_tokenizer(LINES, vocab_size=290).save_pretrained(str(path))
    return load_tokenizer(path)


def test_an_encoders_special_tokens(encoder_tokenizer: object) -> None:
    assert encoder_tokenizer.convert_ids_to_tokens(range(5)) == list(ENCODER_SPECIAL_TOKENS)
    assert (encoder_tokenizer.mask_token_id, encoder_tokenizer.pad_token_id, len(encoder_tokenizer)) == (4, 1, 290)
    assert (encoder_tokenizer.cls_token_id, encoder_tokenizer.sep_token_id) == (0, 2)
    one, other = (encoder_tokenizer(line, add_special_tokens=False)["input_ids"] for line in LINES[:2])
    assert encoder_tokenizer(LINES[0])["input_ids"] == [0, *one, 2]
    assert encoder_tokenizer(LINES[0], LINES[1])["input_ids"] == [0, *one, 2, 2, *other, 2]


def test_a_mask_stands_where_a_word_stood(encoder_tokenizer: object) -> None:
    word = encoder_tokenizer("house", add_special_tokens=False)["input_ids"]
    assert len(word) == 1
    whole, masked = (encoder_tokenizer(f"the {text} is.")["input_ids"] for text in ("house", "<mask>"))
    assert masked == [4 if i == word[0] else i for i in whole]


def test_capitals_read_as_small_letters(tmp_path: Path, encoder_tokenizer: object) -> None:
    train_encoder_tokenizer(LINES, vocab_size=290, lowercase=True).save_pretrained(str(tmp_path))
    lower = load_tokenizer(tmp_path)
    for tokenizer, same in ((lower, True), (encoder_tokenizer, False)):
        assert (tokenizer("The HOUSE")["input_ids"] == tokenizer("the house")["input_ids"]) is same
    assert lower.decode(encode(lower, ["The house <MASK>"], literally=True)[0]) == "the house <mask>"


def test_names_of_special_tokens_can_be_text(encoder_tokenizer: object) -> None:
    text = "a <mask> and a </s> in HTML"
    ids, _ = encode(encoder_tokenizer, [text], literally=True)
    assert ids.min() > 4
    assert encoder_tokenizer.decode(ids) == text
    assert 4 in encode(encoder_tokenizer, [text])[0], "only where it is asked for"


@given(st.text(max_size=60))
def test_any_text_comes_back(tokenizer: object, text: str) -> None:
    text = normalise(text)
    if any(token in text for token in SPECIAL_TOKENS):
        return
    ids, offsets = encode(tokenizer, [text])
    assert UNK_ID not in ids
    assert offsets.tolist() == [0, len(ids)]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_too_little_text_names_the_size_that_fits() -> None:
    with pytest.raises(StudyError, match=r"yields only (\d+) tokens, not 5000; set corpus\.vocab_size: \d+") as caught:
        train_tokenizer(LINES, vocab_size=5000)
    size = int(str(caught.value).rsplit(" ", 1)[1])
    assert len(train_tokenizer(LINES, vocab_size=size)) == size


@pytest.mark.parametrize("vocab_size", [4, 260, 70_000])
def test_impossible_vocabulary(vocab_size: int) -> None:
    with pytest.raises(StudyError, match=rf"corpus\.vocab_size is {vocab_size}; choose 261"):
        train_tokenizer(LINES, vocab_size=vocab_size)
    with pytest.raises(StudyError, match=rf"corpus\.vocab_size is {vocab_size}; choose 262"):
        train_encoder_tokenizer(LINES, vocab_size=vocab_size)


def test_damaged_tokenizer(tmp_path: Path, corpus: PreparedCorpus) -> None:
    with pytest.raises(StudyError, match="missing or damaged"):
        load_tokenizer(tmp_path)
    corpus.tokenizer().save_pretrained(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(StudyError, match=r"missing or damaged.*run prepare again"):
        load_tokenizer(tmp_path)
