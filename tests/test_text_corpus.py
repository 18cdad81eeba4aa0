"""The settings of an encoder's corpus: what is missing or contradictory is refused, with the fix."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.text_corpus import EncoderCorpusSpec, SentencesSpec, TextSpec

TEXT = {"kind": "files", "paths": ["a.txt"], "valid_documents": 2, "test_documents": 2}
SENTENCES = {"kind": "csv", "path": "a.csv", "classes": 2, "valid_sentences": 2, "test_sentences": 2}
CORPUS = {"kind": "text", "text": TEXT, "sentences": SENTENCES, "license": "CC0", "credit": "nobody"}
SIZES = {"vocab_size": 300, "sequence_tokens": 32, "max_tokens": 48}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"paths": None}, "text of kind 'files' also needs paths"),
        ({"paths": []}, "text of kind 'files' also needs paths"),
        ({"kind": "package", "package": "a==1"}, "also needs file, sha256, archive_member"),
        ({"kind": "datasets"}, "also needs path"),
        ({"column": "text"}, "text files have none"),
        ({"where": {"source": "imdb"}}, "name the table's text column"),
        ({"document_start": "["}, "document_start is not a regular expression"),
        ({"valid_documents": 0}, "greater than 0"),
        ({"documents": 3}, "Extra inputs"),
    ],
)
def test_bad_text(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        TextSpec(**TEXT | fields)
    assert "\n" not in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": None}, "sentences of kind 'csv' also need path"),
        ({"kind": "package", "file": "f", "sha256": "0"}, "also need package, archive_member"),
        ({"classes": 1}, "greater than 1"),
        ({"test_sentences": None}, "give either test_sentences, to hold some out, or test_path"),
        ({"test_path": "b.csv"}, "give either test_sentences"),
        ({"kind": "datasets", "valid_sentences": None}, "or valid_split"),
        ({"valid_split": "validation", "valid_sentences": None}, "valid_split is for kind 'datasets'"),
        ({"kind": "datasets", "test_path": "b", "test_sentences": None}, "test_path is for files"),
    ],
)
def test_bad_sentences(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SentencesSpec(**SENTENCES | fields)


@pytest.mark.parametrize(
    "fields", [{"vocab_size": 5}, {"sequence_tokens": 4}, {"max_tokens": 4}, {"mask_probability": 1.0}, {"kind": "tsv"}]
)
def test_bad_corpus(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EncoderCorpusSpec(**CORPUS | SIZES | fields)
