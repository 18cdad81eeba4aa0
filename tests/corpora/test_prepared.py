"""A prepared corpus that is missing or damaged is refused with one line; arrays are mapped, not read."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.corpora.prepared import PreparedCorpus, TokenArray
from pipeline.errors import StudyError


@pytest.fixture
def copied(corpus: PreparedCorpus, tmp_path: Path) -> Path:
    return Path(shutil.copytree(corpus.path, tmp_path / "copy"))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no prepared corpus there; run"):
        PreparedCorpus.open(tmp_path)


@pytest.mark.parametrize("name", ["train-source.ids.npy", "test-references.json", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("keep", [None, 0, -1])
def test_missing_or_cut_file(copied: Path, name: str, keep: int | None) -> None:
    path = copied / name
    if keep is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        StudyError, match=rf"{name}: (is missing|has \d+ bytes, expected \d+); delete .*run prepare again"
    ):
        PreparedCorpus.open(copied)


@pytest.mark.parametrize("text", ["{", "[]", '{"files": {}}', '{"files": {"a": 3}, "tokenizer": {"vocab_size": 4}}'])
def test_damaged_card(copied: Path, text: str) -> None:
    (copied / "card.json").write_text(text)
    with pytest.raises(StudyError, match=r"card\.json"):
        PreparedCorpus.open(copied)


def test_unknown_split(corpus: PreparedCorpus) -> None:
    with pytest.raises(StudyError, match="no split 'tset'; did you mean 'test'"):
        corpus.split("tset")
    with pytest.raises(StudyError, match="only valid and test have components"):
        corpus.split("train").components()


def test_token_array(tmp_path: Path) -> None:
    array = TokenArray(np.array([5, 6, 7, 8], dtype=np.uint16), np.array([0, 1, 1, 4]))
    array.save(tmp_path / "x")
    again = TokenArray.open(tmp_path / "x")
    assert [again[i].tolist() for i in range(3)] == [[5], [], [6, 7, 8]]
    assert again[-1].tolist() == [6, 7, 8]
    assert again.lengths.tolist() == [1, 0, 3]
    with pytest.raises(IndexError):
        again[3]


def test_ids_are_mapped(corpus: PreparedCorpus) -> None:
    ids = corpus.split("train").source.ids
    assert ids.dtype == np.uint16
    assert isinstance(ids.base, np.memmap)


def test_offsets_that_do_not_fit(copied: Path) -> None:
    np.save(copied / "valid-source.offsets.npy", np.array([0, 3]))
    with pytest.raises(StudyError, match="do not fit"):
        PreparedCorpus(copied, {"tokenizer": {"vocab_size": 300}}).split("valid")


def test_empty_corpus_of_tokens(tmp_path: Path) -> None:
    TokenArray(np.zeros(0, dtype=np.uint16), np.zeros(3, dtype=np.int64)).save(tmp_path / "x")
    assert TokenArray.open(tmp_path / "x").lengths.tolist() == [0, 0]
