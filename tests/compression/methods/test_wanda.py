"""Wanda: exact counts a row, the right weights, and rounds that pay for what they look at."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.budget import Budget
from pipeline.compression.bit_widths import EMBEDDING
from pipeline.compression.calibration_set import calibration_batches, charge_passes
from pipeline.compression.layer_inputs import input_norms
from pipeline.compression.methods.wanda import apply, wanda_masks
from pipeline.compression.pruning import apply_masks, compressible, kept_count, magnitude_masks
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.recipes import Wanda
from tests.benches import SIZE, bench_of, candidate_of

# Few different values: ties everywhere.
values = st.sampled_from([0.0, 0.5, -0.5, 1.0, -1.0, 2.0])
matrices = st.integers(1, 12).flatmap(
    lambda columns: st.tuples(
        st.lists(st.lists(values, min_size=columns, max_size=columns), min_size=1, max_size=4),
        st.lists(st.sampled_from([0.0, 1.0, 3.0]), min_size=columns, max_size=columns),
    )
)


@settings(max_examples=200)
@given(matrices, st.lists(st.floats(0, 0.99), min_size=1, max_size=3))
def test_every_row_keeps_its_count_of_the_largest_scores_and_never_unprunes(
    matrix: tuple[list[list[float]], list[float]], levels: list[float]
) -> None:
    weight, norms = torch.tensor(matrix[0]), torch.tensor(matrix[1], dtype=torch.float64)
    scores = weight.abs() * norms
    previous: dict[str, torch.Tensor] | None = None
    for level in sorted(levels):
        masks = wanda_masks({"w": weight}, {"w": norms}, level, previous=previous)
        kept = masks["w"]
        assert kept.dtype == torch.bool
        assert set(kept.sum(1).tolist()) == {kept_count(weight.shape[1], level)}
        candidates = torch.ones_like(kept) if previous is None else previous["w"]
        assert not (kept & ~candidates).any()
        for row, stays, could in zip(scores, kept, candidates, strict=True):
            if stays.any() and (could & ~stays).any():
                assert row[stays].min() >= row[could & ~stays].max()
        previous = masks


def test_a_strong_input_saves_a_small_weight_and_ties_are_broken_by_position() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0, 0.1], [1.0, -1.0, 1.0, 0.0]])
    norms = torch.tensor([1.0, 1.0, 1.0, 100.0], dtype=torch.float64)
    assert wanda_masks({"w": weight}, {"w": norms}, 0.5)["w"].tolist() == [
        [False, False, True, True],
        [True, True, False, False],
    ]


def test_a_matrix_compared_as_a_whole_may_lose_more_in_one_row_than_in_another() -> None:
    weight, norms = torch.tensor([[5.0, 4.0, 6.0], [1.0, 2.0, 3.0]]), torch.tensor([1.0, 2.0, 1.0])
    masks = wanda_masks({"w": weight}, {"w": norms}, 0.5, whole=["w"])
    assert masks["w"].tolist() == [[True, True, True], [False, False, False]]
    previous = {"w": torch.tensor([[False, True, True], [True, True, True]])}
    masks = wanda_masks({"w": weight}, {"w": norms}, 0.5, previous=previous, whole=["w"])
    assert masks["w"].tolist() == [[False, True, True], [False, True, False]]


def test_a_row_with_too_few_weights_left_keeps_them() -> None:
    previous = {"w": torch.tensor([[True, False, False, False], [True, True, True, True]])}
    masks = wanda_masks({"w": torch.ones(2, 4)}, {"w": torch.ones(4)}, 0.5, previous=previous)
    assert masks["w"].tolist() == [[True, False, False, False], [True, True, False, False]]


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(StudyError, match="diverged"):
        wanda_masks({"w": torch.ones(1, 2)}, {"w": torch.tensor([1.0, float("inf")])}, 0.5)


def test_outputs_move_less_than_with_magnitudes_where_inputs_differ_in_strength() -> None:
    rng = np.random.default_rng(0)
    strengths = np.exp(rng.standard_normal(64))
    inputs = torch.from_numpy(rng.standard_normal((500, 64)) * strengths)
    weight = torch.from_numpy(rng.standard_normal((32, 64)))
    wanda = wanda_masks({"w": weight}, {"w": inputs.norm(dim=0)}, 0.5)["w"]
    magnitude = magnitude_masks({"w": weight}, 0.5)["w"]
    errors = [float((inputs @ (weight * ~mask).T).norm()) for mask in (wanda, magnitude)]
    assert errors[0] < 0.7 * errors[1]


def test_one_shot_scores_every_matrix_by_its_own_inputs(each_corpus: PreparedCorpus, tmp_path: Path) -> None:
    bench, candidate, whole = (make(each_corpus) for make in (partial(bench_of, folder=tmp_path), *2 * [candidate_of]))
    apply(candidate, Wanda(method="wanda", sparsity=0.5, sentences=20), bench)
    batches = calibration_batches(bench, 20)
    norms = input_norms(whole.model, batches)
    matrices = compressible(whole.model)
    looked_up = matrices.keys() - norms.keys()
    expected = wanda_masks({name: matrices[name] for name in norms}, norms, 0.5, whole=[EMBEDDING])
    expected |= magnitude_masks({name: matrices[name] for name in looked_up}, 0.5)
    assert len(looked_up) == (3 if whole.size.num_labels else 0)
    assert candidate.masks.keys() == expected.keys()
    for name, mask in expected.items():
        assert torch.equal(candidate.masks[name], mask)
        before = whole.model.get_parameter(name)
        assert torch.equal(candidate.model.get_parameter(name), torch.where(mask, before, 0.0))
    assert len({tuple(norm.tolist()) for norm in norms.values()}) > len(norms) / 2  # q, k and v read the same
    charge_passes(whole, bench, batches)
    assert candidate.ledger == whole.ledger
    assert candidate.steps == 0


def test_masks_from_before_are_kept(corpus: PreparedCorpus, tmp_path: Path) -> None:
    candidate = candidate_of(corpus)
    candidate.masks = magnitude_masks(compressible(candidate.model), 0.3)
    apply_masks(candidate.model, candidate.masks)
    before = dict(candidate.masks)
    apply(candidate, Wanda(method="wanda", sparsity=0.6, sentences=20), bench_of(corpus, tmp_path))
    for name, mask in candidate.masks.items():
        assert not (mask & ~before[name]).any()
        if name == EMBEDDING:
            assert int(mask.sum()) == kept_count(mask.numel(), 0.6)
        else:
            assert int(mask.sum(1).max()) == kept_count(mask.shape[1], 0.6)


def test_rounds_look_again_and_stay_in_the_budget(corpus: PreparedCorpus, tmp_path: Path) -> None:
    seconds = {kind: {SIZE.key: 0.5} for kind in ("train", "finetune")}
    plain = bench_of(corpus, tmp_path, seconds_per_step=seconds)
    budget = Budget.parse("6 s")
    bench = replace(plain, budget=budget, recovery=budget)
    candidate, paid = candidate_of(corpus), candidate_of(corpus)
    apply(candidate, Wanda(method="wanda", sparsity=0.5, sentences=20, rounds=3), bench)
    charge_passes(paid, bench, calibration_batches(bench, 20), passes=3)
    assert candidate.ledger.of("calibrate") == paid.ledger.total
    assert candidate.ledger.of("finetune").steps == candidate.steps > 3
    assert 5.5 - paid.ledger.total.seconds < candidate.ledger.total.seconds <= 6.0
    for name, mask in candidate.masks.items():
        if name == EMBEDDING:
            assert int(mask.sum()) == kept_count(mask.numel(), 0.5)
        else:
            assert set(mask.sum(1).tolist()) == {kept_count(mask.shape[1], 0.5)}
        assert not candidate.model.get_parameter(name)[~mask].any()
    shot = candidate_of(corpus)
    apply(shot, Wanda(method="wanda", sparsity=0.5, sentences=20), plain)
    assert any(not torch.equal(mask, shot.masks[name]) for name, mask in candidate.masks.items())


def test_at_sparsity_0_nothing_is_done_or_charged(corpus: PreparedCorpus, tmp_path: Path) -> None:
    candidate = candidate_of(corpus)
    apply(candidate, Wanda(method="wanda", sparsity=0.0), bench_of(corpus, tmp_path, seconds_per_step=None))
    assert not candidate.masks
    assert not candidate.ledger.by_purpose
