"""Quantization-aware finetuning: what it leaves, what it beats, and what it charges."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.budget import Budget, Ledger
from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.methods.qat import apply
from pipeline.compression.pruning import apply_masks, compressible, magnitude_masks
from pipeline.compression.quantization import dequantize, quantize_dequantize
from pipeline.compression.recovery import recover
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.evaluation.losses import validation_loss
from pipeline.models.checkpoint import load_dense, read_run
from pipeline.recipes import Finetune, Qat
from pipeline.size import SizeSpec
from tests.runs import COMMON, KEY, TRAINING, at_steps, die, pretrained

SIZE = SizeSpec(d_model=16, num_layers=1)
SPENT, SECONDS_PER_STEP, STEPS = 120, 0.5, 100


@pytest.fixture(scope="module")
def parent(corpus: PreparedCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained model."""
    return pretrained(corpus, tmp_path_factory.mktemp("parent"), budgets={"seconds": f"{SPENT} s"}) / "seconds"


@pytest.fixture
def candidate(parent: Path) -> Candidate:
    """The untouched parent."""
    run = read_run(parent)
    return Candidate(
        model=load_dense(parent), size=SIZE, trained_size=SIZE, ledger=Ledger.from_dict(run["ledger"]), run=run
    )


@pytest.fixture
def bench(parent: Path, corpus: PreparedCorpus, tmp_path: Path) -> Bench:
    """A budget that has STEPS steps left."""
    recovery = Budget(amount=STEPS * SECONDS_PER_STEP, resource="seconds")
    return Bench(
        entry=COMMON
        | TRAINING
        | {"seconds_per_step": {kind: {"w16x1": SECONDS_PER_STEP} for kind in ("train", "qat")}},
        key=KEY,
        match="seconds",
        corpus=corpus,
        budget=Budget(amount=SPENT + recovery.amount, resource="seconds"),
        recovery=recovery,
        parent=parent,
        validate=validation_loss(corpus),
        checkpoint=tmp_path / "qat.pt",
        share=1.0,
    )


def _state(candidate: Candidate) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in candidate.model.state_dict().items()}


def _apply(candidate: Candidate, bench: Bench, **settings: object) -> None:
    apply(candidate, Qat.model_validate({"method": "qat", **settings}), bench)


def test_at_2_bits_it_beats_as_much_finetuning_rounded_after_it(candidate: Candidate, bench: Bench) -> None:
    rounded = copy.deepcopy(candidate)
    finetuning = replace(bench, checkpoint=bench.checkpoint.with_name("finetune.pt"))
    recover(rounded, Finetune(method="finetune"), finetuning)
    assert rounded.ledger.total.seconds == pytest.approx(bench.budget.amount)
    dense = bench.validate(rounded.model)
    with torch.no_grad():
        for matrix in compressible(rounded.model).values():
            matrix.copy_(torch.from_numpy(quantize_dequantize(matrix.detach().numpy(), 2)))
    _apply(candidate, bench, bits=2)
    after, aware = bench.validate(rounded.model), bench.validate(candidate.model)
    assert aware < after - 0.5
    assert aware - dense < 0.5 * (after - dense)


def test_the_model_is_what_its_codes_say_and_errors_are_the_latent_weights(candidate: Candidate, bench: Bench) -> None:
    _apply(candidate, bench, bits=3, embedding_bits=8, keep=["fc1"])
    matrices = compressible(candidate.model)
    kept = {name for name in matrices if "fc1" in name}
    assert candidate.quantized.keys() == candidate.weight_errors.keys() == matrices.keys() - kept
    for name, quantized in candidate.quantized.items():
        assert np.array_equal(dequantize(quantized), matrices[name].detach().numpy())
        assert quantized.bits == (8 if "shared" in name else 3)
    errors = [error for name, error in candidate.weight_errors.items() if "shared" not in name]
    assert 0.05 < min(errors) <= max(errors) < 0.3  # of rounded weights it would be next to 0
    assert 0 < candidate.weight_errors["model.shared.weight"] < 0.01


def test_it_spends_its_share_as_finetuning(candidate: Candidate, bench: Bench) -> None:
    trained = candidate.ledger.of("train")
    _apply(candidate, bench, bits=4)
    assert candidate.ledger.of("train") == trained
    assert candidate.ledger.of("finetune").seconds == pytest.approx(STEPS * SECONDS_PER_STEP)
    assert candidate.ledger.of("finetune").steps == candidate.steps == STEPS


def test_pruned_weights_stay_at_zero_and_out_of_the_codes(candidate: Candidate, bench: Bench) -> None:
    weights = {name: weight.detach() for name, weight in compressible(candidate.model).items()}
    masks = magnitude_masks(weights, 0.6)
    candidate.masks = masks
    apply_masks(candidate.model, masks)
    _apply(candidate, bench, bits=2)
    for name, mask in masks.items():
        assert torch.equal(candidate.masks[name], mask)
        assert not compressible(candidate.model)[name][~mask].any()
        stored = candidate.quantized[name].mask
        assert stored is not None
        assert np.array_equal(stored, mask.numpy())


@pytest.mark.parametrize("settings", [{"bits": 32}, {"bits": 2, "share": 0.0}, {"bits": 3, "keep": ["model"]}])
def test_at_strength_0_it_changes_and_charges_nothing(
    candidate: Candidate, bench: Bench, settings: dict[str, object]
) -> None:
    before, ledger = _state(candidate), candidate.ledger.as_dict()
    _apply(candidate, replace(bench, share=settings.get("share", 1.0)), **settings)
    assert all(torch.equal(tensor, before[name]) for name, tensor in candidate.model.state_dict().items())
    assert candidate.ledger.as_dict() == ledger
    assert not candidate.quantized
    assert candidate.steps == 0


def test_killed_and_resumed_it_makes_the_same_codes(
    candidate: Candidate, bench: Bench, parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import copy

    whole, untouched = copy.deepcopy(candidate), copy.deepcopy(candidate)
    _apply(whole, replace(bench, checkpoint=tmp_path / "whole.pt"), bits=2)
    calls = at_steps(monkeypatch, (7, 20), die)
    for _ in range(2):
        with pytest.raises(MemoryError):
            _apply(copy.deepcopy(untouched), bench, bits=2)
    _apply(candidate, bench, bits=2)
    assert len(calls) == STEPS + 2, "saved steps are not made again"
    assert candidate.ledger == whole.ledger
    assert candidate.weight_errors == whole.weight_errors
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(candidate.model.state_dict()[name], tensor), name
    for name, quantized in whole.quantized.items():
        assert np.array_equal(candidate.quantized[name].codes, quantized.codes), name
