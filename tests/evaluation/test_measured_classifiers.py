"""Rows of classifiers: losses, accuracy with its interval, sizes; every expected model has one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.evaluation.accuracy import score_classes
from pipeline.evaluation.classification import class_logits
from pipeline.evaluation.measurement import measure
from pipeline.expected import models_of_run
from pipeline.files import read_json
from pipeline.flops import inference_flops_per_token
from pipeline.models.checkpoint import load_dense
from tests.classifiers import encoder_size, write_classifier

KEY = "mlm-w32x2-s0"
RECIPES = {name: {"family": "rtn", "method": "quantize", "sizes": ["w32x2"], "matches": ["seconds"], "seeds": None}
           for name in ("q4",)}  # fmt: skip
ENTRY = {"matches": ["seconds"], "recipes": RECIPES, "trained_in": "finetune", "scratch": True}


@pytest.fixture(scope="module")
def artifacts(sentences: PreparedCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finetuned run and its 4-bit form; what was never pretrained has diverged."""
    folder = tmp_path_factory.mktemp("artifacts")
    write_classifier(folder / "finetune" / KEY / "seconds", sentences, run_id=f"{KEY}-seconds-fp32")
    write_classifier(folder / "compressed" / KEY / "rtn" / "seconds-q4", sentences, run_id=f"{KEY}-seconds-q4", bits=4)
    (folder / "finetune" / KEY / "metrics.json").write_text('{"seconds-scratch": {"status": "diverged"}}')
    return folder


def test_every_classifier_of_the_run_has_a_row(artifacts: Path, sentences: PreparedCorpus, tmp_path: Path) -> None:
    models = list(models_of_run(ENTRY, KEY))
    line = measure(models, artifacts=artifacts, corpus=sentences, out=tmp_path / "out", resamples=200)
    assert line == "out: measured 2 of 3 models"
    rows = {row["run_id"]: row for row in read_json(tmp_path / "out" / "rows.json")}
    dense, lost, four = (rows[f"{KEY}-seconds-{recipe}"] for recipe in ("fp32", "scratch", "q4"))
    assert (lost["status"], "valid_loss" in lost) == ("diverged", False)
    arrays = np.load(tmp_path / "out" / "sentences.npz")
    test = sentences.sentences("test")
    size = encoder_size(num_labels=2)
    for row in (dense, four):
        found = {name: arrays[f"{row['run_id']}/{name}"] for name in ("test_nll", "test_tokens", "test_correct")}
        assert found["test_correct"].dtype == np.bool_
        assert len(found["test_correct"]) == len(test)
        assert (found["test_tokens"] == 1).all()
        assert row["test_loss"] == pytest.approx(found["test_nll"].mean())
        assert row["quality"] == pytest.approx(100 * found["test_correct"].mean())
        assert row["quality_low"] < row["quality"] < row["quality_high"]
        assert row["signature"] == f"accuracy|n:{len(test)}|boot:200|seed:0"
        assert f"{row['run_id']}/valid_correct" not in arrays
        assert (row["task"], row["size"], row["status"]) == ("classification", "w32x2", "ok")
        assert (row["total_seconds"], row["train_tokens"]) == (40.0, 10000.0)
        length = float(test.padded_lengths.mean())
        expected = inference_flops_per_token(
            size, source_length=length, target_length=length, vocab_size=sentences.vocab_size
        )
        assert row["infer_flops_per_token"] == expected
    assert (dense["compression_ratio"], four["bits"]) == (1.0, 4)
    assert four["compression_ratio"] > 4
    model = load_dense(artifacts / "finetune" / KEY / "seconds")
    correct = class_logits(model, test).argmax(axis=1) == test.labels
    assert (arrays[f"{KEY}-seconds-fp32/test_correct"] == correct).all()


def test_a_classifier_that_diverged_has_no_accuracy(artifacts: Path, sentences: PreparedCorpus, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    logits = np.full((len(sentences.split("test")), 2), np.nan, dtype=np.float32)
    monkeypatch.setattr("pipeline.evaluation.measurement.class_logits", lambda model, split: logits[: len(split)])
    measure(
        list(models_of_run(ENTRY, KEY))[:1], artifacts=artifacts, corpus=sentences, out=tmp_path / "out", resamples=100
    )
    (row,) = read_json(tmp_path / "out" / "rows.json")
    assert row["status"] == "diverged"
    assert [row[name] for name in ("valid_loss", "test_loss", "quality", "quality_low")] == [None] * 4


def test_sentences_of_a_component_are_drawn_together() -> None:
    correct = np.array([True, True, False, False] * 25)
    alone, together = (
        score_classes(correct, components, resamples=500) for components in (np.arange(100), np.arange(100) // 4)
    )
    assert alone["quality"] == together["quality"] == 50.0
    assert together["quality_low"] == together["quality_high"] == 50.0  # all of them are alike
    assert 35 < alone["quality_low"] < 45 < 55 < alone["quality_high"] < 65
    assert score_classes(correct, np.arange(100), resamples=500) == alone
