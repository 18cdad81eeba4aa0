"""A task that a small model learns to do without a fault, copying, and what every method leaves of that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.compression.families import compress
from pipeline.compression.formats import load_model
from pipeline.compression.registry import METHODS
from pipeline.corpora.preparation import prepare
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.evaluation.losses import validation_loss
from pipeline.models.checkpoint import load_dense
from tests.runs import KEY, compression, pretrained

SHAPE = {"size": "w64x2f128", "d_model": 64, "num_layers": 2, "num_heads": 2, "ffn_dim": 128}
LEARNT = {"budgets": {"seconds": "200 s"}, "label_smoothing": 0.0, "dropout": 0.0, "learning_rate": 4e-3}
SECONDS = {
    **{kind: dict.fromkeys(("w64x2f128", "w64x2f64", "w64x2h1d32f128"), 0.5) for kind in ("train", "finetune", "qat")},
    "word": {"w64x2f128<-w64x2f128": 0.5},
}
CALIBRATION = {"sentences": 32}
FINETUNED: dict[str, Any] = {"method": "finetune"}

MILD: dict[str, list[dict[str, Any]]] = {
    "activations": [{"method": "activations", "bits": 8} | CALIBRATION],
    "distill": [{"method": "magnitude", "sparsity": 0.5}, {"method": "distill"}],
    "ffn": [{"method": "ffn", "fraction": 0.5}, FINETUNED],
    "finetune": [{"method": "magnitude", "sparsity": 0.5}, FINETUNED],
    "gptq": [{"method": "gptq", "bits": 4} | CALIBRATION],
    "heads": [{"method": "heads", "fraction": 0.5}, FINETUNED],
    "magnitude": [{"method": "magnitude", "sparsity": 0.5, "rounds": 3}],
    "qat": [{"method": "qat", "bits": 3}],
    "quanto": [{"method": "quanto", "bits": 4}],
    "uniform": [{"method": "uniform", "bits": 4}],
    "wanda": [{"method": "wanda", "sparsity": 0.5, "rounds": 3} | CALIBRATION],
}
"""By method; layers and width take too much of so small a model to leave it a copyist."""

DONE, STILL_DONE = 0.1, 0.5
"""Nats a token. Who knows nothing has 5.7, and who knows each word's share alone has about 3."""


@pytest.fixture(scope="module")
def copying(
    pairs: list[tuple[str, str]],
    write_pairs: Callable[..., Path],
    make_spec: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> PreparedCorpus:
    """A corpus in which every sentence is its own translation."""
    folder = tmp_path_factory.mktemp("copying")
    sources = dict.fromkeys(source for source, _ in pairs)
    path = write_pairs(folder / "pairs.tsv", [(source, source) for source in sources])
    prepare(make_spec(kind="tsv", path=str(path)), folder / "prepared")
    return PreparedCorpus.open(folder / "prepared")


@pytest.fixture(scope="module")
def copyist(copying: PreparedCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt to copy."""
    return pretrained(copying, tmp_path_factory.mktemp("copyist"), **SHAPE, **LEARNT)


def test_a_small_model_learns_to_copy(copying: PreparedCorpus, copyist: Path) -> None:
    assert validation_loss(copying)(load_dense(copyist / "seconds")) < DONE


def test_every_method_is_tried_or_said_to_take_too_much() -> None:
    assert set(MILD) == set(METHODS) - {"layers", "width"}


@pytest.mark.parametrize("name", sorted(MILD))
def test_it_still_copies_after_compression(name: str, copying: PreparedCorpus, copyist: Path, tmp_path: Path) -> None:
    loss = validation_loss(copying)
    entry = compression({"mild": MILD[name]}, **SHAPE, **LEARNT, seconds_per_step=SECONDS)
    out = tmp_path / "out"
    compress(entry, key=KEY, parent=copyist, corpus=copying, out=out, work=tmp_path / "work", validate=loss)
    assert loss(load_model(out / "seconds-mild")) < STILL_DONE
