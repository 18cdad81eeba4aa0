"""Rows of measured models: every expected model has one, and the file on disk is what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.compression.posttraining import quantize_run
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.evaluation.measurement import measure, model_paths, statuses_of
from pipeline.evaluation.translation import translate_test
from pipeline.files import read_json, write_json
from tests.runs import COMMON, KEY, pretrained


@pytest.fixture(scope="module")
def artifacts(corpus: PreparedCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained and quantized run, whose pruning diverged."""
    folder = tmp_path_factory.mktemp("artifacts")
    parent = pretrained(corpus, folder)
    entry = {**COMMON, "matches": ["seconds"], "bits": [8]}
    quantize_run(entry, key=KEY, parent=parent, corpus=corpus, out=folder / "quantize" / KEY)
    write_json(folder / "prune" / KEY / "metrics.json", {"seconds-p50": {"status": "diverged", "valid_loss": None}})
    return folder


def test_every_model_of_the_run_has_a_row(corpus: PreparedCorpus, artifacts: Path, tmp_path: Path) -> None:
    entry = {"matches": ["seconds"], "recipes": ["fp32", "q8", "p50"]}
    models = model_paths(entry, key=KEY, artifacts=artifacts)
    measure(models, statuses=statuses_of(models), corpus=corpus, out=tmp_path / "out")
    rows = {row["run_id"]: row for row in read_json(tmp_path / "out" / "rows.json")}
    assert list(rows) == [f"{KEY}-seconds-{recipe}" for recipe in entry["recipes"]]
    assert rows[f"{KEY}-seconds-p50"] == {"run_id": f"{KEY}-seconds-p50", "status": "diverged"}
    dense, eight = rows[f"{KEY}-seconds-fp32"], rows[f"{KEY}-seconds-q8"]
    assert dense["compression_ratio"] == 1.0
    assert dense["size_bytes"] == (artifacts / "pretrain" / KEY / "seconds" / "model.safetensors").stat().st_size
    assert eight["size_bytes"] == (artifacts / "quantize" / KEY / "seconds-q8" / "weights.safetensors").stat().st_size
    assert eight["compression_ratio"] == pytest.approx(dense["size_bytes"] / eight["size_bytes"])
    assert eight["valid_loss"] == pytest.approx(dense["valid_loss"], abs=0.02)
    assert dense["total_seconds"] == pytest.approx(40)
    assert dense["params_total"] == dense["params_embedding"] + dense["params_non_embedding"]
    sentences = np.load(tmp_path / "out" / "sentences.npz")
    nll, tokens = (sentences[f"{KEY}-seconds-q8/test_{name}"] for name in ("nll", "tokens"))
    assert eight["test_loss"] == pytest.approx(nll.sum() / tokens.sum())
    assert len(nll) == len(corpus.split("test"))


def test_translations_are_aligned_scored_and_signed(corpus: PreparedCorpus, artifacts: Path, tmp_path: Path) -> None:
    models = {f"{KEY}-seconds-q8": artifacts / "quantize" / KEY / "seconds-q8"}
    search = {"beam": 2, "length_penalty": 1.0, "max_length": 30}
    translate_test(models, search=search, corpus=corpus, resamples=100, out=tmp_path / "out")
    lines = (tmp_path / "out" / f"{KEY}-seconds-q8.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(corpus.split("test"))
    record = read_json(tmp_path / "out" / "translations.json")[f"{KEY}-seconds-q8"]
    assert record["quality_low"] <= record["quality"] <= record["quality_high"]
    assert "version:" in record["signature"]
    assert "version:" in record["chrf_signature"]
