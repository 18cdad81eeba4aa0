"""A prepared corpus for encoders, opened: its cards, the part for each task, files that are missing or do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError


def test_cards(encoder_corpus: Path) -> None:
    top = json.loads((encoder_corpus / "card.json").read_text())
    assert (top["kind"], top["license"], top["credit"], top["classes"]) == ("encoder", "CC0", "nobody", 2)
    assert top["splits"]["text"]["test"]["documents"] == 15
    assert len(top["origin"]["text"]["sha256_of_files"]) == 1
    assert {"text/card.json", "sentences/card.json", "README.md"} <= top["files"].keys()
    for folder, kind in (("text", "text"), ("sentences", "sentences")):
        card = json.loads((encoder_corpus / folder / "card.json").read_text())
        assert (card["kind"], card["license"], card["tokenizer"]["vocab_size"]) == (kind, "CC0", 320)
        text = (encoder_corpus / folder / "README.md").read_text()
        for part in ("CC0", "nobody", f"{card['splits']['train']['entries']:,}"):
            assert part in text
    assert json.loads((encoder_corpus / "text" / "card.json").read_text())["masking"] == {
        "probability": 0.15,
        "seed": 0,
    }


def test_open_for_a_task(encoder_corpus: Path, corpus: PreparedCorpus, tmp_path: Path) -> None:
    assert PreparedCorpus.open_task(corpus.path, "translation").kind == "pairs"
    assert PreparedCorpus.open_task(encoder_corpus, "masked_lm").kind == "text"
    for path, task in ((encoder_corpus, "translation"), (corpus.path, "masked_lm"), (corpus.path, "classification")):
        with pytest.raises(StudyError, match=f"this corpus was not prepared for {task}"):
            PreparedCorpus.open_task(path, task)
    with pytest.raises(StudyError, match="no prepared corpus there"):
        PreparedCorpus.open_task(tmp_path, "masked_lm")
    with pytest.raises(StudyError, match="no task 'masked_ml'; did you mean 'masked_lm'"):
        PreparedCorpus.open_task(encoder_corpus, "masked_ml")
    with pytest.raises(StudyError, match="open text or sentences inside it"):
        PreparedCorpus.open(encoder_corpus).split("train")
    with pytest.raises(StudyError, match="sentence pairs are needed, and this corpus holds text"):
        PreparedCorpus.open_task(encoder_corpus, "masked_lm").pairs("test")
    with pytest.raises(StudyError, match="labelled sentences are needed, and this corpus holds pairs"):
        corpus.sentences("test")


@pytest.mark.parametrize("name", ["text/valid-blocks.ids.npy", "sentences/train-labels.npy", "sentences/card.json"])
def test_cut_file(name: str, encoder_corpus: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(encoder_corpus, tmp_path / "copy"))
    (copied / name).write_bytes((copied / name).read_bytes()[:-1])
    with pytest.raises(StudyError, match=rf"{name}: has \d+ bytes, expected \d+; delete .*run prepare again"):
        PreparedCorpus.open(copied)
    if "npy" in name:
        with pytest.raises(StudyError, match="run prepare again"):
            PreparedCorpus.open_task(copied, "masked_lm" if name.startswith("text") else "classification")


def test_arrays_that_do_not_fit(encoder_corpus: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(encoder_corpus / "sentences", tmp_path / "copy"))
    np.save(copied / "valid-labels.npy", np.zeros(3, dtype=np.int64))
    with pytest.raises(StudyError, match="3 labels for 40 sentences"):
        PreparedCorpus(copied, json.loads((copied / "card.json").read_text())).split("valid")
    (copied / "test.txt").write_text("one\n")
    with pytest.raises(StudyError, match="1 lines for 60 sentences"):
        PreparedCorpus(copied, json.loads((copied / "card.json").read_text())).sentences("test").lines()
