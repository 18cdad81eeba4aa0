"""Pretraining: budgets kept to the step, branches off one trunk, and a stopped run that ends as if it had not stopped."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from pipeline.budget import Budget
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.files import read_json
from pipeline.models.checkpoint import read_run
from pipeline.training.interrupts import Interrupted, StopRequest
from pipeline.training.objectives import CrossEntropy
from pipeline.training.pretraining import pretrain, spent
from tests.runs import at_steps, die


@pytest.fixture
def entry() -> dict[str, Any]:
    """A tiny run with dropout on, so that the random generator matters to the weights."""
    return {
        "study": "tiny",
        "task": "translation",
        "size": "w16x1",
        "d_model": 16,
        "num_layers": 1,
        "num_heads": 1,
        "ffn_dim": 32,
        "seed": 3,
        "learning_rate": 5e-3,
        "mup_base_width": None,
        "dropout": 0.2,
        "batch_tokens": 300,
        "label_smoothing": 0.1,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "precision": "fp32",
        "checkpoint_seconds": 1e9,
        "budgets": {"seconds": "20 s", "flops": "4e8 flop"},
        "recovery_fraction": 0.15,
        "warmup_steps": 4,
        "decay_fraction": 0.25,
        "validate_points": 3,
        "seconds_per_step": 0.5,
    }


def _loss(model: Any) -> float:
    """Stand in for the validation loss with something cheap that depends on the weights."""
    model.eval()
    return float(sum(parameter.detach().abs().sum() for parameter in model.parameters()))


def _pretrain(entry: dict[str, Any], corpus: PreparedCorpus, folder: Path) -> Path:
    out = folder / "out"
    pretrain(entry, key="tiny-w16x1-s3", corpus=corpus, out=out, work=folder / "work", validate=_loss)
    return out


def _hashes(out: Path) -> dict[str, str]:
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_branch_spends_its_budget_and_no_more(
    entry: dict[str, Any], corpus: PreparedCorpus, tmp_path: Path
) -> None:
    out = _pretrain(entry, corpus, tmp_path)
    metrics = read_json(out / "metrics.json")
    for match, text in entry["budgets"].items():
        for name, fraction in ((match, 1.0), (f"{match}-early", 0.85)):
            budget = Budget.parse(text).scaled(fraction)
            run = read_run(out / name)
            paid = spent(run)
            assert paid.steps == metrics[name]["steps"] == run["steps"]
            assert budget.admits(paid)
            assert budget.spent(paid) >= budget.amount * (1 - 2 / paid.steps), "more than a step was left unspent"
    assert metrics["seconds"]["steps"] == 40
    assert metrics["seconds-early"]["steps"] == 34
    curve = pd.read_csv(out / "curve.csv")
    assert set(curve.phase) == {"trunk", "seconds", "seconds-early", "flops", "flops-early"}
    assert curve[curve.phase == "seconds"].step.tolist() == [40]
    assert not (tmp_path / "work").exists()


def test_a_branch_is_the_run_planned_for_its_budget(
    entry: dict[str, Any], corpus: PreparedCorpus, tmp_path: Path
) -> None:
    both = _pretrain(entry, corpus, tmp_path / "both")
    alone = _pretrain(entry | {"budgets": {"seconds": "20 s"}}, corpus, tmp_path / "alone")
    name = "seconds/model.safetensors"
    assert _hashes(both)[name] == _hashes(alone)[name]


def test_twice_the_same_is_the_same_bytes_and_another_seed_is_not(
    entry: dict[str, Any], corpus: PreparedCorpus, tmp_path: Path
) -> None:
    first = _hashes(_pretrain(entry, corpus, tmp_path / "first"))
    assert _hashes(_pretrain(entry, corpus, tmp_path / "second")) == first
    other = _hashes(_pretrain(entry | {"seed": 4}, corpus, tmp_path / "other"))
    assert other["seconds/model.safetensors"] != first["seconds/model.safetensors"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal_and_resumed_it_ends_with_the_same_bytes(
    entry: dict[str, Any], corpus: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    whole = _hashes(_pretrain(entry, corpus, tmp_path / "whole"))
    at_steps(monkeypatch, (7, 20, 45), lambda: os.kill(os.getpid(), number))
    codes = []
    while True:
        try:
            out = _pretrain(entry, corpus, tmp_path / "stopped")
            break
        except Interrupted as stop:
            codes.append(stop.exit_code)
            assert not (tmp_path / "stopped" / "out").exists(), "nothing half-written"
    assert codes == [128 + number] * 3
    assert _hashes(out) == whole


def test_killed_without_warning_it_resumes_from_its_last_checkpoint(
    entry: dict[str, Any], corpus: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _hashes(_pretrain(entry, corpus, tmp_path / "whole"))
    calls = at_steps(monkeypatch, (9, 25, 40), die)
    settings = entry | {"checkpoint_seconds": 1e-9}
    for _ in range(3):
        with pytest.raises(MemoryError):
            _pretrain(settings, corpus, tmp_path / "killed")
    out = _pretrain(settings, corpus, tmp_path / "killed")
    weights = {name: digest for name, digest in _hashes(out).items() if name.endswith((".safetensors", ".csv"))}
    assert weights == {name: whole[name] for name in weights}
    assert calls.count(1) == 1, "steps before the checkpoint are not made again"


def test_a_run_that_diverges_is_marked_and_leaves_its_good_branches(
    entry: dict[str, Any], corpus: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = CrossEntropy.__call__

    def explodes(self: CrossEntropy, model: Any, batch: Any, *, step: int) -> torch.Tensor:
        loss = plain(self, model, batch, step=step)
        return loss * float("nan") if step >= 36 else loss

    monkeypatch.setattr(CrossEntropy, "__call__", explodes)
    out = _pretrain(entry | {"budgets": {"seconds": "20 s"}}, corpus, tmp_path)
    metrics = read_json(out / "metrics.json")
    assert metrics["seconds"]["status"] == "diverged"
    assert metrics["seconds-early"]["status"] == "ok"
    assert not (out / "seconds").exists()
    assert (out / "seconds-early" / "model.safetensors").exists()


def test_a_trunk_that_diverges_takes_every_later_branch_with_it(
    entry: dict[str, Any], corpus: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = CrossEntropy.__call__, []

    def explodes_once(self: CrossEntropy, model: Any, batch: Any, *, step: int) -> torch.Tensor:
        calls.append(step)
        return plain(self, model, batch, step=step) * (float("nan") if len(calls) == 6 else 1)

    monkeypatch.setattr(CrossEntropy, "__call__", explodes_once)
    out = _pretrain(entry, corpus, tmp_path)
    metrics = read_json(out / "metrics.json")
    assert {record["status"] for record in metrics.values()} == {"diverged"}, "none went on with the batch left out"
    assert len(metrics) == 4


def test_a_signal_that_came_after_the_last_step_is_passed_on() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert not heard
        assert heard == [stop.number] == [signal.SIGTERM]
        with contextlib.suppress(Interrupted), StopRequest() as stop:
            signal.raise_signal(signal.SIGTERM)
            raise Interrupted(stop.number, "progress.pt")
        assert len(heard) == 1, "what the loop heeded is not sent again"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_damaged_checkpoint_is_named(entry: dict[str, Any], corpus: PreparedCorpus, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "progress.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(StudyError, match=r"progress\.pt: the checkpoint is damaged"):
        _pretrain(entry, corpus, tmp_path)


def test_a_budget_too_small_for_a_step_and_an_uncalibrated_size_are_refused(
    entry: dict[str, Any], corpus: PreparedCorpus, tmp_path: Path
) -> None:
    with pytest.raises(StudyError, match="pays for 0 steps"):
        _pretrain(entry | {"budgets": {"seconds": "0.4 s"}}, corpus, tmp_path)
    with pytest.raises(StudyError, match="not calibrated"):
        _pretrain(entry | {"seconds_per_step": None}, corpus, tmp_path)
