"""Activations: the rounding, the ranges, and where in the model they act."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.compression.activation_rounding import range_of, round_inputs, round_tensor, rounds_inputs
from pipeline.compression.calibration_set import calibration_batches
from pipeline.compression.candidate import ActivationRange, Candidate
from pipeline.compression.layer_inputs import observe_inputs, weights_of_layers
from pipeline.compression.methods.activations import apply
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.evaluation.losses import validation_loss
from pipeline.recipes import Activations
from tests.benches import bench_of, candidate_of


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_levels_span_the_range_and_nothing_inside_is_further_than_half_a_step(bits: int) -> None:
    limits = range_of(-1.3, 2.6, bits)
    inputs = torch.linspace(-1.3, 2.6, 5001)
    rounded = round_tensor(inputs, limits)
    assert len(rounded.unique()) == 2**bits
    assert float((rounded - inputs).abs().max()) <= limits.scale / 2 * (1 + 1e-5)
    ends = round_tensor(torch.tensor([-9.0, 9.0]), limits)
    assert ends.tolist() == pytest.approx([-1.3, 2.6])
    torch.testing.assert_close(round_tensor(rounded, limits), rounded)


def test_inputs_are_left_alone_and_keep_their_shape() -> None:
    inputs = torch.linspace(-1, 1, 24).reshape(2, 3, 4)
    before = inputs.clone()
    assert round_tensor(inputs, range_of(-1, 1, 8)).shape == (2, 3, 4)
    assert torch.equal(inputs, before)


def test_a_constant_input_stays_that_constant() -> None:
    limits = range_of(0.75, 0.75, 8)
    assert round_tensor(torch.tensor([0.75, 3.0, -1.0]), limits).tolist() == [0.75] * 3


def test_ranges_come_back_from_json_as_they_were() -> None:
    limits = range_of(-0.1234567890123, 3.3333333333333, 8)
    again = ActivationRange(**json.loads(json.dumps(asdict(limits))))
    assert again == limits
    assert (limits.minimum, limits.scale) == (float(np.float32(limits.minimum)), float(np.float32(limits.scale)))


def test_ranges_that_are_not_finite_are_refused() -> None:
    with pytest.raises(StudyError, match="not finite"):
        range_of(0.0, float("inf"), 8)


def _losses(candidate: Candidate, corpus: PreparedCorpus) -> float:
    return validation_loss(corpus)(candidate.model)


def test_every_linear_layer_sees_at_most_so_many_values(each_corpus: PreparedCorpus, tmp_path: Path) -> None:
    bench, candidate = bench_of(each_corpus, tmp_path), candidate_of(each_corpus)
    before = copy.deepcopy(candidate.model.state_dict())
    apply(candidate, Activations(method="activations", bits=3, sentences=40), bench)
    assert set(candidate.activations) == set(weights_of_layers(candidate.model))
    assert all(torch.equal(value, before[name]) for name, value in candidate.model.state_dict().items())
    assert not candidate.quantized
    values: dict[str, set[float]] = {}

    def observe(layer: str, inputs: Tensor) -> None:
        values.setdefault(layer, set()).update(inputs.unique().tolist())

    observe_inputs(candidate.model, calibration_batches(bench, 20), observe)
    assert set(values) == set(candidate.activations)
    for layer, seen in values.items():
        limits = candidate.activations[layer]
        levels = [float(np.float32(limits.minimum) + np.float32(limits.scale) * np.float32(n)) for n in range(8)]
        assert all(min(abs(level - value) for level in levels) < 1e-5 * (1 + abs(value)) for value in seen), layer
        assert len(seen) > 2


def test_losses_and_logits_both_see_the_rounding_and_8_bits_hardly_move_them(
    corpus: PreparedCorpus, tmp_path: Path
) -> None:
    bench, plain = bench_of(corpus, tmp_path), candidate_of(corpus)
    expected = _losses(plain, corpus)
    found = {}
    for bits in (8, 2):
        candidate = candidate_of(corpus)
        apply(candidate, Activations(method="activations", bits=bits, sentences=100), bench)
        found[bits] = _losses(candidate, corpus)
    assert 0 < abs(found[8] - expected) < 0.02
    assert abs(found[2] - expected) > 5 * abs(found[8] - expected)

    only_output = candidate_of(corpus)
    round_inputs(only_output.model, {"lm_head": range_of(-0.5, 0.5, 2)})
    assert _losses(only_output, corpus) != expected
    batch = calibration_batches(bench, 4)[0]
    with torch.no_grad():
        fields = {
            "input_ids": batch.source,
            "attention_mask": batch.source_mask,
            "decoder_input_ids": batch.decoder_input,
        }
        states = only_output.model.model(**fields)[0]
        assert len(states.unique()) <= 4
        logits = only_output.model(**fields).logits
    torch.testing.assert_close(logits, states @ only_output.model.lm_head.weight.T)


def test_the_ranges_are_those_of_the_model_as_it_is(corpus: PreparedCorpus, tmp_path: Path) -> None:
    bench, step = bench_of(corpus, tmp_path), Activations(method="activations", sentences=30)
    whole, changed = candidate_of(corpus), candidate_of(corpus)
    with torch.no_grad():
        changed.model.get_parameter("model.encoder.layers.0.fc1.weight").mul_(3.0)
    again = candidate_of(corpus)
    for candidate in (whole, changed, again):
        apply(candidate, step, bench)
    name = "model.encoder.layers.0.fc2"
    assert changed.activations[name].scale > 2 * whole.activations[name].scale
    assert again.activations == whole.activations
    assert again.ledger == whole.ledger
    assert whole.ledger.of("calibrate") == whole.ledger.total
    assert whole.ledger.total.seconds > 0


def test_a_classifiers_every_layer_acts_on_its_losses(sentences: PreparedCorpus, tmp_path: Path) -> None:
    candidate = candidate_of(sentences)
    apply(candidate, Activations(method="activations", bits=2, sentences=40), bench_of(sentences, tmp_path))
    for layer, limits in candidate.activations.items():
        alone = candidate_of(sentences)
        expected = _losses(alone, sentences)
        round_inputs(alone.model, {layer: limits})
        assert rounds_inputs(alone.model)
        assert _losses(alone, sentences) != expected, layer


def test_a_loaded_model_rounds_as_the_one_that_was_made(corpus: PreparedCorpus, tmp_path: Path) -> None:
    made, loaded = candidate_of(corpus), candidate_of(corpus)
    apply(made, Activations(method="activations", bits=4, sentences=30), bench_of(corpus, tmp_path))
    stored = json.loads(json.dumps({name: asdict(limits) for name, limits in made.activations.items()}))
    round_inputs(loaded.model, {name: ActivationRange(**limits) for name, limits in stored.items()})
    assert _losses(loaded, corpus) == _losses(made, corpus)
    copied = copy.deepcopy(loaded.model)
    assert validation_loss(corpus)(copied) == _losses(made, corpus)
    assert rounds_inputs(copied)
    assert not rounds_inputs(candidate_of(corpus).model)
    only_output = candidate_of(corpus).model
    round_inputs(only_output, {"lm_head": made.activations["lm_head"]})
    assert rounds_inputs(only_output)


def test_32_bits_do_and_cost_nothing(corpus: PreparedCorpus, tmp_path: Path) -> None:
    candidate = candidate_of(corpus)
    apply(candidate, Activations(method="activations", bits=32), bench_of(corpus, tmp_path, seconds_per_step=None))
    assert not candidate.activations
    assert not candidate.ledger.by_purpose
    assert _losses(candidate, corpus) == _losses(candidate_of(corpus), corpus)


@pytest.mark.parametrize("name", ["model.shared", "model.encoder.layers.9.fc1"])
def test_a_range_for_no_linear_layer_is_refused(corpus: PreparedCorpus, name: str) -> None:
    with pytest.raises(StudyError, match="no linear layer"):
        round_inputs(candidate_of(corpus).model, {name: range_of(0, 1, 8)})
