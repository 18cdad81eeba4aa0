"""Sentences that a small classifier has learnt to tell apart without a fault, and what every method leaves of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.compression.families import compress
from pipeline.compression.formats import load_model
from pipeline.compression.registry import METHODS
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.evaluation.classification import class_logits, predicted
from pipeline.evaluation.losses import validation_loss
from pipeline.models.checkpoint import load_dense
from tests.compression.finetuned import recipes_for_classes
from tests.runs import KEY

CALIBRATION = {"sentences": 32}
FINETUNED: dict[str, Any] = {"method": "finetune"}
SHAPES = ("w64x2f64c2", "w64x2h1d32f128c2", "w64x1f128c2", "w32x2c2")

MILD: dict[str, list[dict[str, Any]]] = {
    "activations": [{"method": "activations", "bits": 8} | CALIBRATION],
    "distill": [{"method": "magnitude", "sparsity": 0.5}, {"method": "distill", "temperature": 2.0}],
    "ffn": [{"method": "ffn", "fraction": 0.5}, {"method": "distill"}],
    "finetune": [{"method": "magnitude", "sparsity": 0.5}, FINETUNED],
    "gptq": [{"method": "gptq", "bits": 4} | CALIBRATION],
    "heads": [{"method": "heads", "fraction": 0.5}, FINETUNED],
    "layers": [{"method": "layers", "fraction": 0.5}, FINETUNED],
    "magnitude": [{"method": "magnitude", "sparsity": 0.5, "rounds": 3}],
    "qat": [{"method": "qat", "bits": 3}],
    "quanto": [{"method": "quanto", "bits": 4}],
    "uniform": [{"method": "uniform", "bits": 4}],
    "wanda": [{"method": "wanda", "sparsity": 0.5, "rounds": 3} | CALIBRATION],
    "width": [{"method": "width", "fraction": 0.5}, FINETUNED],
}

ALWAYS, STILL = 1.0, 0.95
"""Shares of sentences; who knows nothing but the more frequent class is right in 0.58 of them."""


def _right(model: Any, sentences: PreparedCorpus) -> float:
    split = sentences.sentences("valid")
    return float((predicted(class_logits(model, split)) == split.labels).mean())


def test_a_small_model_learns_to_tell_them_apart(sentences: PreparedCorpus, finetuned_run: Path) -> None:
    assert _right(load_dense(finetuned_run / "seconds"), sentences) == ALWAYS


def test_every_method_is_tried() -> None:
    assert set(MILD) == set(METHODS)


@pytest.mark.parametrize("name", sorted(MILD))
def test_it_still_tells_them_apart_after_compression(
    name: str, sentences: PreparedCorpus, finetuned_run: Path, tmp_path: Path
) -> None:
    entry, out = recipes_for_classes({"mild": MILD[name]}, *SHAPES), tmp_path / "out"
    loss, work = validation_loss(sentences), tmp_path / "work"
    compress(entry, key=KEY, parent=finetuned_run, corpus=sentences, out=out, work=work, validate=loss)
    assert _right(load_model(out / "seconds-mild"), sentences) >= STILL
