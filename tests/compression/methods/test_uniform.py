"""Uniform: which matrices it rounds, how, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers.models.m2m_100 import M2M100ForConditionalGeneration

from pipeline.budget import Ledger
from pipeline.compression.methods.uniform import apply
from pipeline.compression.pruning import compressible
from pipeline.compression.quantization import quantize_dequantize, relative_error
from pipeline.errors import StudyError
from pipeline.recipes import Uniform
from tests.candidates import NO_BENCH, compressed, untouched

EMBEDDING = "model.shared.weight"


def test_every_matrix_is_rounded_by_rows_and_nothing_else_changes(model: M2M100ForConditionalGeneration) -> None:
    candidate = untouched(model)
    apply(candidate, Uniform(method="uniform", bits=4), NO_BENCH)
    matrices = compressible(model)
    assert set(candidate.quantized) == set(candidate.weight_errors) == set(matrices)
    for name, before in model.named_parameters():
        after = candidate.model.get_parameter(name).detach().numpy()
        expected = before.detach().numpy()
        if name in matrices:
            expected = quantize_dequantize(expected, 4)
            assert candidate.weight_errors[name] == relative_error(before.detach().numpy(), expected)
        assert np.array_equal(after, expected), name
    assert candidate.ledger == Ledger()


def test_strength_0_changes_nothing(model: M2M100ForConditionalGeneration) -> None:
    candidate = untouched(model)
    apply(candidate, Uniform(method="uniform", bits=32), NO_BENCH)
    assert not candidate.quantized
    assert not candidate.weight_errors
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in candidate.model.named_parameters())


def test_the_embedding_has_bits_of_its_own_and_stays_tied(model: M2M100ForConditionalGeneration) -> None:
    candidate = compressed(model, bits=3, embedding_bits=8)
    assert {name: q.bits for name, q in candidate.quantized.items() if name == EMBEDDING} == {EMBEDDING: 8}
    assert {q.bits for name, q in candidate.quantized.items() if name != EMBEDDING} == {3}
    assert candidate.model.lm_head.weight is candidate.model.model.shared.weight


def test_what_is_to_be_kept_stays_in_fp32(model: M2M100ForConditionalGeneration) -> None:
    candidate = compressed(model, bits=2, keep=["encoder.layers.0", "shared"])
    kept = [name for name in compressible(model) if "encoder.layers.0" in name or "shared" in name]
    assert kept
    assert set(candidate.quantized) == set(compressible(model)) - set(kept)
    assert all(torch.equal(candidate.model.get_parameter(name), model.get_parameter(name)) for name in kept)
    with pytest.raises(StudyError, match="'nothing' is part of no matrix"):
        compressed(model, bits=2, keep=["nothing"])


@pytest.mark.parametrize("granularity", ["tensor", "row", "group"])
def test_pruned_weights_stay_0_and_widen_no_range(model: M2M100ForConditionalGeneration, granularity: str) -> None:
    candidate = compressed(model, bits=4, sparsity=0.6, granularity=granularity, group_size=10)
    for name, mask in candidate.masks.items():
        weight = candidate.model.get_parameter(name)
        assert not weight[~mask].any()
        # The weights nearest to 0 are gone, so that 0 is no level that a grid would need.
        assert candidate.quantized[name].mask is not None
        assert weight[mask].abs().min() > 0


def test_smaller_groups_of_trained_like_weights_are_closer(model: M2M100ForConditionalGeneration) -> None:
    finer = [("tensor", 1), ("row", 1), ("group", 8)]
    errors = [
        np.mean(list(compressed(model, bits=3, granularity=name, group_size=size).weight_errors.values()))
        for name, size in finer
    ]
    assert errors == sorted(errors, reverse=True)


BuildModel = Callable[[str], M2M100ForConditionalGeneration]


def test_a_diverged_model_is_one_clear_error(build_model: BuildModel) -> None:
    model = build_model("deep")
    with torch.no_grad():
        model.model.shared.weight[5, 3] = float("inf")
    with pytest.raises(StudyError, match="diverged"):
        compressed(model, bits=4)
