"""Tiny runs: what they are made of, a way to interrupt one, and what it may leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.models.checkpoint import read_run
from pipeline.training.objectives import CrossEntropy
from pipeline.training.pretraining import pretrain
from pipeline.training.state import load_checkpoint

KEY = "tiny-w16x1-s0"
SHAPE = {"size": "w16x1", "d_model": 16, "num_layers": 1, "num_heads": 1, "ffn_dim": 64}
COMMON: dict[str, Any] = {"study": "tiny", "task": "translation", **SHAPE, "seed": 0}
TRAINING: dict[str, Any] = {
    "learning_rate": 8e-3,
    "mup_base_width": None,
    "dropout": 0.1,
    "batch_tokens": 300,
    "label_smoothing": 0.1,
    "weight_decay": 0.01,
    "clip_norm": 1.0,
    "precision": "fp32",
    "checkpoint_seconds": 1e-9,
    "seconds_per_step": 0.5,
}
PRETRAIN: dict[str, Any] = {
    **COMMON,
    **TRAINING,
    "budgets": {"seconds": "40 s"},
    "recovery_fraction": 0.15,
    "warmup_steps": 4,
    "decay_fraction": 0.2,
    "validate_points": 2,
}
SHAPES = ("w16x1", "w16x1f32")  # that the tiny run has, or is pruned to
MASKED = {"method": "magnitude", "rounds": 3}
FOUR_BITS = {"method": "uniform", "bits": 4}


def compression(recipes: dict[str, list[dict[str, Any]]], **changes: Any) -> dict[str, Any]:
    """Return the entry of a family of recipes for the tiny run; recipes that train start from the early branch."""
    from pipeline.recipes import Family

    family = Family.model_validate({"recipes": recipes})
    return {
        **COMMON,
        **TRAINING,
        "run": KEY,
        "parent": f"pretrain/{KEY}",
        "family": "toy",
        "matches": ["seconds"],
        "budgets": {"seconds": "40 s"},
        "recovery_fraction": 0.15,
        "seconds_per_step": {
            **{kind: dict.fromkeys(SHAPES, 0.5) for kind in ("train", "finetune", "qat")},
            "word": {f"{shape}<-w16x1": 0.7 for shape in SHAPES},
        },
        "recipes": {
            name: {"branch": family.branch_of(name), "steps": [step.model_dump() for step in steps]}
            for name, steps in family.recipes.items()
        },
        **changes,
    }


PRUNE = compression(
    {
        "p50": [MASKED | {"sparsity": 0.5}],
        "p50q4": [MASKED | {"sparsity": 0.5}, FOUR_BITS],
        "p90": [MASKED | {"sparsity": 0.9}],
        "p90q4": [MASKED | {"sparsity": 0.9}, FOUR_BITS],
    }
)
ENCODER: dict[str, Any] = {"architecture": "encoder", "positions": 48, "label_smoothing": 0.0}
MASKED_LM: dict[str, Any] = PRETRAIN | ENCODER | {"task": "masked_lm", "finetune_fraction": 0.25}
FINETUNE: dict[str, Any] = {
    **COMMON,
    **TRAINING,
    **ENCODER,
    "task": "classification",
    "num_labels": 2,
    "run": KEY,
    "budgets": {"seconds": "40 s"},
    "recovery_fraction": 0.15,
    "warmup_fraction": 0.2,
    "scratch": True,
}
DISTILL: dict[str, Any] = {
    **COMMON,
    **TRAINING,
    "method": "word",
    "init": "random",
    "teaching": "word",
    "budget": "40 s",
    "warmup_steps": 4,
    "decay_fraction": 0.2,
    "alpha": 0.5,
    "temperature": 1.0,
    "direction": "forward",
    "teacher_fraction": 1.0,
    "teacher_seconds_per_step": {"w32x1": 0.8},
}


def at_steps(monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, ...], happens: Callable[[], None]) -> list[int]:
    """Let something happen at these calls of the training objective, counted from 1; return the steps of all calls so far."""
    plain, calls = CrossEntropy.__call__, []

    def observed(self: CrossEntropy, model: Any, batch: Any, *, step: int) -> torch.Tensor:
        calls.append(step)
        if len(calls) in numbers:
            happens()
        return plain(self, model, batch, step=step)

    monkeypatch.setattr(CrossEntropy, "__call__", observed)
    return calls


def die() -> None:
    """Stand in for a process that is gone without a chance to save."""
    raise MemoryError("as if the process were gone")


def pretrained(corpus: PreparedCorpus, folder: Path, *, key: str = KEY, **changes: Any) -> Path:
    """Pretrain a tiny model with the branches `seconds` and `seconds-early`; return its folder."""
    from pipeline.evaluation.losses import validation_loss

    out = folder / "pretrain" / key
    entry = PRETRAIN | changes
    pretrain(entry, key=key, corpus=corpus, out=out, work=folder / "work" / key, validate=validation_loss(corpus))
    return out


def assert_same(out: Path, whole: Path) -> None:
    """Fail unless both folders hold the same models, in every weight and in what they cost, and differ in nothing else."""
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file()) == files
    models = [name for name in files if name.suffix == ".safetensors"]
    assert models
    for name in models:
        found, expected = load_file(out / name), load_file(whole / name)
        assert found.keys() == expected.keys()
        unequal = [weight for weight in expected if not torch.equal(found[weight], expected[weight])]
        assert not unequal, f"{name}: {unequal}"
        assert read_run((out / name).parent)["ledger"] == read_run((whole / name).parent)["ledger"], name.parent
    changed = [str(name) for name in files if (out / name).read_bytes() != (whole / name).read_bytes()]
    assert not changed


def assert_nothing_is_half(folder: Path, whole: Path) -> None:
    """Fail unless every checkpoint in ``folder/work`` can be loaded, and ``folder/out`` is as `whole` or not there."""
    for checkpoint in sorted((folder / "work").glob("*.pt")):
        assert load_checkpoint(checkpoint)["state"]["step"] > 0
    if (folder / "out").exists():
        assert_same(folder / "out", whole)
