"""Translations of what is in a model directory: every kind of file, with everything in it that changes a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.compression.formats import load_model, save_compressed
from pipeline.compression.methods import activations, quanto
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.evaluation.decoding import translate
from pipeline.evaluation.translation import decode_lines
from pipeline.recipes import Activations, Quanto
from tests.benches import bench_of, candidate_of

SEARCH: dict[str, Any] = {"beam": 2, "length_penalty": 1.0, "max_length": 12}


@pytest.mark.parametrize(
    ("method", "step"),
    [
        (activations, Activations(method="activations", bits=3, sentences=20)),
        (quanto, Quanto(method="quanto", bits=2)),
    ],
)
def test_translations_are_those_of_the_saved_model(
    method: Any, step: Any, corpus: PreparedCorpus, tmp_path: Path
) -> None:
    candidate, directory = candidate_of(corpus), tmp_path / "model"
    lines, tokenizer = corpus.split("test").source_lines()[:12], corpus.tokenizer()
    whole = translate(candidate.model, tokenizer, lines, **SEARCH)
    method.apply(candidate, step, bench_of(corpus, tmp_path))
    save_compressed(candidate, directory)
    decoded = decode_lines(directory, lines, tokenizer=tokenizer, search=SEARCH)
    assert decoded == translate(load_model(directory), tokenizer, lines, **SEARCH, engine="transformers")
    assert decoded != whole


def test_a_dense_model_goes_through_ctranslate2(
    corpus: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = candidate_of(corpus)
    save_compressed(candidate, tmp_path / "model")
    used = []

    def spy(*arguments: Any, **options: Any) -> list[str]:
        used.append(options["engine"])
        return translate(*arguments, **options)

    monkeypatch.setattr("pipeline.evaluation.translation.translate", spy)
    lines = corpus.split("test").source_lines()[:2]
    assert len(decode_lines(tmp_path / "model", lines, tokenizer=corpus.tokenizer(), search=SEARCH)) == 2
    assert used == ["ctranslate2-float32"]
