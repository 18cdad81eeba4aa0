"""Magnitude masks: exact, monotone, repeatable; and the schedule that leads to them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.m2m_100 import M2M100ForConditionalGeneration

from pipeline.compression.pruning import apply_masks, compressible, kept_count, magnitude_masks, sparsity_schedule
from pipeline.errors import StudyError

# Few different magnitudes: ties everywhere.
tied_weights = st.lists(st.sampled_from([0.0, 0.5, -0.5, 1.0, -1.0, 2.0]), min_size=1, max_size=40)


@settings(max_examples=200)
@given(tied_weights, st.lists(st.floats(0, 0.99), min_size=1, max_size=4))
def test_masks_keep_the_exact_count_of_the_largest_and_never_unprune(row: list[float], levels: list[float]) -> None:
    weight = torch.tensor([row])
    previous: dict[str, torch.Tensor] | None = None
    for level in sorted(levels):
        masks = magnitude_masks({"w": weight}, level, previous=previous)
        kept = masks["w"]
        assert kept.dtype == torch.bool
        assert kept.shape == weight.shape
        assert int(kept.sum()) == kept_count(len(row), level) == round(len(row) * (1 - level))
        candidates = torch.ones_like(kept) if previous is None else previous["w"]
        assert not (kept & ~candidates).any()
        dropped = weight.abs()[candidates & ~kept]
        if kept.any() and dropped.numel():
            assert weight.abs()[kept].min() >= dropped.max()
        previous = masks


def test_ties_are_broken_by_position() -> None:
    assert magnitude_masks({"w": torch.tensor([[1.0, -1.0], [1.0, 2.0]])}, 0.5)["w"].tolist() == [
        [True, False],
        [False, True],
    ]


def test_a_weight_pruned_before_stays_pruned_however_large_it_grew() -> None:
    previous = {"w": torch.tensor([[False, True, True, True]])}
    mask = magnitude_masks({"w": torch.tensor([[9.0, 0.0, 1.0, 0.0]])}, 0.5, previous=previous)["w"]
    assert mask.tolist() == [[False, True, True, False]]
    assert torch.equal(magnitude_masks({"w": torch.ones(1, 4)}, 0.0, previous=previous)["w"], previous["w"])


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_sparsity_out_of_range_is_refused(sparsity: float) -> None:
    with pytest.raises(StudyError, match="out of range"):
        magnitude_masks({"w": torch.ones(2, 2)}, sparsity)


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(StudyError, match="diverged"):
        magnitude_masks({"w": torch.tensor([[1.0, float("nan")]])}, 0.5)


@given(st.floats(0.01, 0.99), st.integers(1, 12))
def test_schedule_rises_to_exactly_the_target(target: float, rounds: int) -> None:
    levels = sparsity_schedule(target, rounds)
    assert len(levels) == rounds
    assert levels[-1] == target
    assert levels[0] > 0
    assert all(before < after for before, after in pairwise(levels))


def test_schedule_is_the_cubic_one() -> None:
    assert sparsity_schedule(0.8, 4) == pytest.approx([0.8 * 37 / 64, 0.8 * 56 / 64, 0.8 * 63 / 64, 0.8])


@pytest.mark.parametrize(("target", "rounds"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_schedule_refuses_nonsense(target: float, rounds: int) -> None:
    with pytest.raises(StudyError):
        sparsity_schedule(target, rounds)


def test_compressible_is_every_matrix_once(model: M2M100ForConditionalGeneration) -> None:
    matrices = compressible(model)
    assert next(iter(matrices)) == "model.shared.weight"
    assert len({id(parameter) for parameter in matrices.values()}) == len(matrices)
    layers = model.config.encoder_layers
    assert len(matrices) == 1 + layers * (4 + 2) + layers * (4 + 4 + 2)
    rest = [parameter for name, parameter in model.named_parameters() if name not in matrices]
    assert {parameter.ndim for parameter in rest} == {1}


def test_applying_masks_zeroes_in_place_and_keeps_ties(model: M2M100ForConditionalGeneration) -> None:
    before = {name: parameter.detach().clone() for name, parameter in compressible(model).items()}
    masks = magnitude_masks(before, 0.7)
    apply_masks(model, masks)
    for name, parameter in compressible(model).items():
        assert torch.equal(parameter.detach(), torch.where(masks[name], before[name], 0.0))
        assert not torch.signbit(parameter.detach()[~masks[name]]).any()
        assert parameter.requires_grad
    assert model.lm_head.weight is model.model.shared.weight
    again = magnitude_masks(compressible(model), 0.7, previous=masks)
    assert all(torch.equal(again[name], masks[name]) for name in masks)
