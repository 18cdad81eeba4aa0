"""A small classifier that has learnt to tell sentences apart without a fault, and entries of recipes for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.evaluation.losses import validation_loss
from pipeline.training.finetuning import finetune
from tests.runs import KEY, PRETRAIN, compression, pretrained

SHAPE: dict[str, Any] = {
    "size": "w64x2f128",
    "d_model": 64,
    "num_layers": 2,
    "num_heads": 2,
    "ffn_dim": 128,
    "architecture": "encoder",
    "positions": 48,
}
BUDGET_SECONDS = 100
LEARNT: dict[str, Any] = {
    "budgets": {"seconds": f"{BUDGET_SECONDS} s"},
    "finetune_fraction": 0.8,
    "learning_rate": 2e-3,
    "label_smoothing": 0.0,
    "dropout": 0.0,
}
CLASSIFIER = {**SHAPE, "task": "classification", "num_labels": 2, **LEARNT}


def finetuned(corpus: Path, folder: Path) -> Path:
    """Pretrain on a prepared directory's text and finetune on its sentences; return the classifiers' folder."""
    text, sentences = (PreparedCorpus.open_task(corpus, task) for task in ("masked_lm", "classification"))
    rare = {"checkpoint_seconds": 60}
    before = pretrained(text, folder, **SHAPE, **LEARNT, task="masked_lm", **rare)
    entry = PRETRAIN | CLASSIFIER | rare | {"warmup_fraction": 0.1, "scratch": False}
    out, loss = folder / "finetune" / KEY, validation_loss(sentences)
    finetune(entry, key=KEY, pretrained=before, corpus=sentences, out=out, work=folder / "work", validate=loss)
    return out


def recipes_for_classes(recipes: dict[str, list[dict[str, Any]]], *shapes: str) -> dict[str, Any]:
    """Return the entry of a family of recipes for the classifier; `shapes` are the keys that training has on the way."""
    own = "w64x2f128c2"
    kinds = ("train", "finetune", "qat")
    seconds = {
        **{kind: dict.fromkeys((own, *shapes), 0.5) for kind in kinds},
        "word": {f"{shape}<-{own}": 0.7 for shape in (own, *shapes)},
    }
    return compression(recipes, **CLASSIFIER, seconds_per_step=seconds)
