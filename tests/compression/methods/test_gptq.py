"""GPTQ against rounding to nearest, and against the best that its compensation can do."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline.compression.bit_widths import EMBEDDING
from pipeline.compression.calibration_set import calibration_batches, charge_passes
from pipeline.compression.candidate import Candidate
from pipeline.compression.methods.gptq import algebra_flops, apply, gptq_rows, inverse_factor
from pipeline.compression.pruning import apply_masks, compressible, magnitude_masks
from pipeline.compression.quantization import dequantize, quantize_rows
from pipeline.corpora.batches import Batch
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.models.parameters import EMBEDDINGS
from pipeline.recipes import Gptq
from tests.benches import bench_of, candidate_of

ROWS, COLUMNS = 24, 150  # more columns than one block has


def _weight(seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((ROWS, COLUMNS)).astype(np.float32)


def _inputs(seed: int = 1) -> npt.NDArray[np.float64]:
    """Return (600, C) inputs in which a few directions make most of the strength, as activations' do."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((20, COLUMNS))
    return rng.standard_normal((600, 20)) @ directions + 0.3 * rng.standard_normal((600, COLUMNS))


def _output_error(weight: npt.NDArray[np.float32], rounded: npt.NDArray[np.float32], inputs: npt.NDArray) -> float:
    return float(np.linalg.norm(inputs @ (weight.astype(np.float64) - rounded).T))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("pruned", [False, True])
def test_the_output_moves_far_less_than_with_rounding_to_nearest(bits: int, pruned: bool) -> None:
    weight, inputs = _weight(), _inputs()
    mask = np.abs(weight) > 0.7 if pruned else None
    if mask is not None:
        weight = np.where(mask, weight, np.float32(0))
    compensated = gptq_rows(weight, inputs.T @ inputs, bits, mask)
    nearest = quantize_rows(weight, bits, mask)
    assert np.array_equal(compensated.scale, nearest.scale)
    assert np.array_equal(compensated.minimum, nearest.minimum)
    assert int(compensated.codes.max()) <= 2**bits - 1
    values = dequantize(compensated)
    if mask is not None:
        assert not values[~mask].any()
        assert not compensated.codes[~mask].any()
    better, worse = (_output_error(weight, found, inputs) for found in (values, dequantize(nearest)))
    assert better < (0.75 if pruned else 0.6) * worse


def test_pruned_weights_compensate_nothing_and_are_compensated_for() -> None:
    weight, inputs = _weight(), _inputs()
    mask = np.abs(weight) > 0.7
    found = dequantize(gptq_rows(weight, inputs.T @ inputs, 8, mask))
    assert not found[~mask].any()
    # The weights that are cut here are not 0 yet: what stays takes over what they did.
    assert _output_error(weight, found, inputs) < 0.7 * _output_error(weight, np.where(mask, weight, 0), inputs)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_independent_inputs_of_one_strength_are_rounded_to_nearest(bits: int) -> None:
    weight = _weight()
    found, nearest = gptq_rows(weight, 7.0 * np.eye(COLUMNS), bits), quantize_rows(weight, bits)
    assert np.array_equal(found.codes, nearest.codes)
    assert found.codes.flags.c_contiguous


def test_the_factor_is_that_of_the_damped_inverse() -> None:
    inputs = _inputs()
    hessian = inputs.T @ inputs
    factor = inverse_factor(hessian, 0.05)
    assert np.array_equal(factor, np.triu(factor))
    damped = hessian + 0.05 * np.diagonal(hessian).mean() * np.eye(COLUMNS)
    assert np.allclose(factor.T @ factor @ damped, np.eye(COLUMNS), atol=1e-8)


def test_a_columns_error_moves_the_others_to_where_least_squares_puts_them() -> None:
    """With one column that cannot be met and levels so fine that the others can, what is left is the best there is."""
    inputs, weight = _inputs()[:, :6], _weight()[:3, :6]
    mask = np.ones((3, 6), dtype=bool)
    mask[:, 0] = False
    found = dequantize(gptq_rows(weight, inputs.T @ inputs, 8, mask, damping=1e-9))
    rest = inputs[:, 1:]
    best = np.linalg.lstsq(rest, inputs @ weight.T.astype(np.float64), rcond=None)[0]
    # Only rows whose best weights lie on their grid can have them.
    rows = (np.clip(best.T, weight[:, 1:].min(1, keepdims=True), weight[:, 1:].max(1, keepdims=True)) == best.T).all(1)
    assert rows.any()
    errors = [np.linalg.norm(inputs @ weight[rows].T - rest @ values) for values in (best[:, rows], found[rows, 1:].T)]
    assert errors[1] < 1.02 * errors[0]


def test_dead_columns_are_rounded_to_nearest_and_harm_nothing() -> None:
    weight, inputs = _weight(), _inputs()
    inputs[:, [3, 140]] = 0.0
    found = gptq_rows(weight, inputs.T @ inputs, 3)
    nearest = quantize_rows(weight, 3)
    assert np.array_equal(found.codes[:, [3, 140]], nearest.codes[:, [3, 140]])
    assert _output_error(weight, dequantize(found), inputs) < 0.6 * _output_error(weight, dequantize(nearest), inputs)
    nothing = gptq_rows(weight, np.zeros((COLUMNS, COLUMNS)), 3)
    assert np.array_equal(nothing.codes, nearest.codes)


def test_fewer_positions_than_columns_need_the_damping() -> None:
    weight, few = _weight(), _inputs()[:30]
    found, nearest = (dequantize(way) for way in (gptq_rows(weight, few.T @ few, 3), quantize_rows(weight, 3)))
    assert _output_error(weight, found, few) < 0.6 * _output_error(weight, nearest, few)
    with pytest.raises(StudyError, match="raise it, or give more sentences"):
        gptq_rows(weight, few.T @ few, 3, damping=1e-300)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="Hessian has shape"):
        gptq_rows(_weight(), np.eye(COLUMNS - 1), 4)
    with pytest.raises(StudyError, match="not finite"):
        gptq_rows(_weight(), np.full((COLUMNS, COLUMNS), np.nan), 4)
    with pytest.raises(StudyError, match="2 to 8"):
        gptq_rows(_weight(), np.eye(COLUMNS), 9)


def _state(candidate: Candidate) -> dict[str, torch.Tensor]:
    return copy.deepcopy(candidate.model.state_dict())


def _final_states(candidate: Candidate, batch: Batch) -> torch.Tensor:
    """Return a decoder's states where there is a label, and a classifier's head's, whose classes they tell apart."""
    source = {"input_ids": batch.source, "attention_mask": batch.source_mask}
    if candidate.size.num_labels:
        hidden = candidate.model.roberta_prelayernorm(**source)[0][:, 0]
        return candidate.model.classifier.dense(hidden).tanh()
    return candidate.model.model(**source, decoder_input_ids=batch.decoder_input)[0][batch.labels >= 0]


def _output_errors(corpus: PreparedCorpus, folder: Path, bits: int) -> tuple[float, float]:
    """Return how far the final states are from the whole model's: with gptq, with rounding to nearest."""
    bench = bench_of(corpus, folder)
    whole, compensated, nearest = (candidate_of(corpus) for _ in range(3))
    tables = ["_embeddings"] if whole.size.num_labels else []
    step = Gptq(method="gptq", bits=bits, embedding_bits=32, sentences=200, keep=tables)
    apply(compensated, step, bench)
    with torch.no_grad():
        for name in compensated.quantized:
            parameter = nearest.model.get_parameter(name)
            parameter.copy_(torch.from_numpy(dequantize(quantize_rows(parameter.numpy(), bits))))
    errors = [0.0, 0.0]
    with torch.no_grad():
        for batch in calibration_batches(bench_of(corpus, folder, seed=9), 60):
            states = [_final_states(candidate, batch) for candidate in (whole, compensated, nearest)]
            for number in (0, 1):
                errors[number] += float((states[number + 1] - states[0]).square().sum())
    return errors[0], errors[1]


@pytest.mark.parametrize("bits", [3, 4])
def test_a_models_states_stay_closer_on_sentences_that_it_was_not_fitted_to(
    each_corpus: PreparedCorpus, tmp_path: Path, bits: int
) -> None:
    compensated, nearest = _output_errors(each_corpus, tmp_path, bits)
    assert compensated < 0.7 * nearest


def test_a_step_quantizes_what_it_says_and_pays_for_it(corpus: PreparedCorpus, tmp_path: Path) -> None:
    bench, candidate = bench_of(corpus, tmp_path), candidate_of(corpus)
    before = _state(candidate)
    step = Gptq(method="gptq", bits=3, embedding_bits=8, keep=["decoder.layers.1", "fc2"], sentences=20)
    apply(candidate, step, bench)
    matrices = compressible(candidate.model)
    kept = {name for name in matrices if "decoder.layers.1" in name or "fc2" in name}
    assert set(candidate.quantized) == set(matrices) - kept
    assert set(candidate.weight_errors) == set(candidate.quantized)
    assert {name: found.bits for name, found in candidate.quantized.items()} == {
        name: 8 if name == EMBEDDING else 3 for name in candidate.quantized
    }
    for name, parameter in candidate.model.named_parameters():
        expected = before[name]
        if name in candidate.quantized:
            expected = torch.from_numpy(dequantize(candidate.quantized[name]))
            assert not torch.equal(expected, before[name])
        assert torch.equal(parameter, expected), name
    assert np.array_equal(candidate.quantized[EMBEDDING].codes, quantize_rows(before[EMBEDDING].numpy(), 8).codes)

    batches = calibration_batches(bench, 20)
    passes = candidate_of(corpus)
    charge_passes(passes, bench, batches, passes=3)
    sources, targets = sum(batch.source_tokens for batch in batches), sum(batch.target_tokens for batch in batches)
    algebra = 0.0
    for positions, layers, squares in ((sources, 2, 4), (sources, 1, 2), (targets, 1, 6)):
        algebra += layers * (squares * algebra_flops(32, 32, positions))
    algebra += 2 * algebra_flops(64, 32, sources) + algebra_flops(64, 32, targets)
    cost = candidate.ledger.total
    assert cost.flops == pytest.approx(passes.ledger.total.flops + algebra)
    assert candidate.ledger.of("calibrate") == cost
    assert cost.seconds / cost.flops == pytest.approx(passes.ledger.total.seconds / passes.ledger.total.flops)


def test_a_classifier_pays_for_its_head_too_and_its_tables_are_rounded_to_nearest(
    sentences: PreparedCorpus, tmp_path: Path
) -> None:
    bench, candidate = bench_of(sentences, tmp_path), candidate_of(sentences)
    before = _state(candidate)
    apply(candidate, Gptq(method="gptq", bits=3, embedding_bits=8, sentences=20), bench)
    assert set(candidate.quantized) == set(compressible(candidate.model))
    tables = {name for name in candidate.quantized if "embeddings" in name}
    for name, found in candidate.quantized.items():
        assert found.bits == (8 if name in EMBEDDINGS else 3)
        nearest = quantize_rows(before[name].numpy(), found.bits).codes
        assert np.array_equal(found.codes, nearest) == (name in tables), name

    batches = calibration_batches(bench, 20)
    passes = candidate_of(sentences)
    charge_passes(passes, bench, batches, passes=3)  # a layer each, and the head
    sources = sum(batch.source_tokens for batch in batches)
    layer = 4 * algebra_flops(32, 32, sources) + algebra_flops(64, 32, sources) + algebra_flops(32, 64, sources)
    head = algebra_flops(32, 32, 20) + algebra_flops(2, 32, 20)
    assert candidate.ledger.total.flops == pytest.approx(passes.ledger.total.flops + 2 * layer + head)


def test_masks_stay_and_the_same_step_gives_the_same_bits(corpus: PreparedCorpus, tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        candidate = candidate_of(corpus)
        candidate.masks = magnitude_masks(compressible(candidate.model), 0.5)
        apply_masks(candidate.model, candidate.masks)
        apply(candidate, Gptq(method="gptq", bits=4, sentences=20), bench_of(corpus, tmp_path))
        results.append(candidate)
    first, second = results
    for name, parameter in compressible(first.model).items():
        assert not parameter[~first.masks[name]].any()
        assert np.array_equal(first.quantized[name].mask, first.masks[name].numpy())
        assert torch.equal(parameter, second.model.get_parameter(name))
    assert first.ledger == second.ledger


def test_32_bits_do_and_cost_nothing(corpus: PreparedCorpus, tmp_path: Path) -> None:
    candidate = candidate_of(corpus)
    before = _state(candidate)
    apply(candidate, Gptq(method="gptq", bits=32), bench_of(corpus, tmp_path, seconds_per_step=None))
    assert not candidate.quantized
    assert not candidate.ledger.by_purpose
    assert all(torch.equal(value, before[name]) for name, value in candidate.model.state_dict().items())


def test_the_embedding_alone_needs_no_calibration(corpus: PreparedCorpus, tmp_path: Path) -> None:
    candidate = candidate_of(corpus)
    step = Gptq(method="gptq", bits=32, embedding_bits=4)
    apply(candidate, step, bench_of(corpus, tmp_path, seconds_per_step=None))
    assert list(candidate.quantized) == [EMBEDDING]
    assert not candidate.ledger.by_purpose
