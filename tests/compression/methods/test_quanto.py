"""optimum-quanto's weights: close to ours, exact on disk, without a compiler."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.m2m_100 import M2M100ForConditionalGeneration

from pipeline.budget import Ledger
from pipeline.compression.candidate import Candidate
from pipeline.compression.encoding_facts import encoding_facts
from pipeline.compression.formats import QUANTO, load_model, save_compressed, size_bytes, stored_numbers
from pipeline.compression.methods.quanto import apply
from pipeline.compression.quanto_files import MAP, dense_weights, plain_model, unpack
from pipeline.compression.sizes import parameter_shapes, size_bytes_theory
from pipeline.errors import StudyError
from pipeline.recipes import Quanto
from tests.candidates import NO_BENCH, compressed, untouched
from tests.classifiers import encoder

BuildModel = Callable[[str], M2M100ForConditionalGeneration]


def logits(model: M2M100ForConditionalGeneration) -> torch.Tensor:
    source = torch.tensor([[5, 7, 11, 2], [9, 2, 1, 1]])
    with torch.no_grad():
        return model(
            input_ids=source, attention_mask=(source != 1).long(), decoder_input_ids=torch.tensor([[0, 8, 4]] * 2)
        ).logits


def quantized(model: M2M100ForConditionalGeneration, bits: int) -> Candidate:
    candidate = untouched(model)
    apply(candidate, Quanto(method="quanto", bits=bits), NO_BENCH)
    return candidate


def distance(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).norm() / right.norm())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_is_saved_is_what_is_loaded(model: M2M100ForConditionalGeneration, tmp_path: Path, bits: int) -> None:
    candidate = quantized(model, bits)
    path = save_compressed(candidate, tmp_path / "once")
    loaded = load_model(tmp_path / "once")
    assert path.name == QUANTO
    assert torch.equal(logits(loaded), logits(candidate.model))
    left, right = dense_weights(loaded), dense_weights(candidate.model)
    assert list(left) == list(right) == [name for name, _ in model.named_parameters()]
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert loaded.lm_head.weight is loaded.model.shared.weight is loaded.model.decoder.embed_tokens.weight
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert not loaded.training

    candidate.model = loaded
    assert save_compressed(candidate, tmp_path / "twice").read_bytes() == path.read_bytes()
    assert (tmp_path / "once" / MAP).read_bytes() == (tmp_path / "twice" / MAP).read_bytes()


def test_at_8_bits_it_agrees_with_ours(model: M2M100ForConditionalGeneration) -> None:
    theirs, ours = quantized(model, 8), compressed(model, bits=8, embedding_bits=32)
    assert set(theirs.weight_errors) == set(ours.weight_errors)
    exact = logits(model)
    assert distance(logits(theirs.model), exact) < 0.02
    assert distance(logits(theirs.model), logits(ours.model)) < 0.02
    for name, error in ours.weight_errors.items():
        assert error == pytest.approx(theirs.weight_errors[name], rel=0.5), name
    # Each is off by its own rounding alone, at most half of its step.
    weights = dense_weights(theirs.model)
    for name, tensor in ours.quantized.items():
        theirs_step = model.get_parameter(name).detach().abs().amax(1) / 127
        bound = (torch.from_numpy(tensor.scale.astype(np.float32)) + theirs_step) / 2 * 1.001
        assert ((weights[name] - ours.model.get_parameter(name)).abs() <= bound[:, None]).all()


@pytest.mark.parametrize(("bits", "factor"), [(4, 1.6), (2, 3)])
def test_at_fewer_bits_its_errors_are_of_the_size_of_ours(
    model: M2M100ForConditionalGeneration, bits: int, factor: float
) -> None:
    theirs, ours = quantized(model, bits), compressed(model, bits=bits, embedding_bits=32)
    for name, error in ours.weight_errors.items():
        assert error / factor < theirs.weight_errors[name] < error * factor, name


@pytest.mark.parametrize("bits", [4, 8])
def test_a_classifiers_head_is_among_its_layers(bits: int, tmp_path: Path) -> None:
    model = encoder()
    candidate = quantized(model, bits)
    layers = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(candidate.weight_errors) == {f"{layer}.weight" for layer in layers}
    assert {"classifier.dense", "classifier.out_proj"} < layers
    save_compressed(candidate, tmp_path)
    ids = torch.tensor([[0, 7, 11, 2], [0, 9, 2, 1]])
    fields = {"input_ids": ids, "attention_mask": (ids != 1).long()}
    with torch.no_grad():
        made = candidate.model(**fields).logits
        assert torch.equal(load_model(tmp_path)(**fields).logits, made)
        torch.testing.assert_close(plain_model(candidate.model)(**fields).logits, made, atol=1e-4, rtol=1e-4)
    ours = compressed(model, bits=bits, embedding_bits=32, keep=["_embeddings"])
    assert ours.weight_errors.keys() == candidate.weight_errors.keys()
    for name, error in ours.weight_errors.items():
        assert error / 1.6 < candidate.weight_errors[name] < error * 1.6, name


def test_strength_0_changes_nothing(model: M2M100ForConditionalGeneration) -> None:
    candidate = quantized(model, 32)
    assert candidate.quanto_bits is None
    assert torch.equal(logits(candidate.model), logits(model))
    assert candidate.ledger == Ledger()


@pytest.mark.parametrize("bits", [4, 8])
def test_the_plain_model_computes_the_same(model: M2M100ForConditionalGeneration, bits: int) -> None:
    candidate = quantized(model, bits)
    plain = plain_model(candidate.model)
    assert all(isinstance(parameter.data, torch.Tensor) for parameter in plain.parameters())
    assert plain.lm_head.weight is plain.model.shared.weight
    torch.testing.assert_close(logits(plain), logits(candidate.model), atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(copy.deepcopy(plain)), logits(plain))


def test_facts_and_size(build_model: BuildModel, tmp_path: Path) -> None:
    model = build_model("wide")
    candidate = quantized(model, 4)
    facts = encoding_facts(candidate)
    assert facts["quantized_tensors"] == "matrices 4, embedding fp32, norms and biases fp32"
    assert (facts["bits"], facts["embedding_bits"], facts["granularity"]) == (4, None, "row")
    save_compressed(candidate, tmp_path)
    bits, kept = stored_numbers(tmp_path)
    assert set(bits) == set(candidate.weight_errors)
    theory = size_bytes_theory(parameter_shapes(load_model(tmp_path)), bits=bits, kept=kept)
    assert theory == size_bytes_theory(parameter_shapes(model), bits=dict.fromkeys(bits, 4), kept={})
    assert theory < size_bytes(tmp_path) == (tmp_path / QUANTO).stat().st_size


@pytest.mark.parametrize("bits", [2, 4])
def test_unpacking_in_torch_reverses_optimum_quantos_packing(bits: int) -> None:
    from optimum.quanto.tensor.packed import pack_weights

    values = torch.from_numpy(np.random.default_rng(0).integers(0, 2**bits, size=(24, 5), dtype=np.uint8))
    assert torch.equal(unpack(pack_weights(values, bits), bits), values)


def test_no_compiler_is_asked_for(build_model: BuildModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils.cpp_extension.load", lambda *_, **__: pytest.fail("compiled"))
    logits(quantized(build_model("deep"), 4).model)


@pytest.mark.parametrize(("name", "step"), [(QUANTO, 997), (MAP, 41)])
def test_one_flipped_bit(build_model: BuildModel, tmp_path: Path, name: str, step: int) -> None:
    save_compressed(quantized(build_model("deep"), 8), tmp_path)
    data = (tmp_path / name).read_bytes()
    for place in range(0, len(data), step):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 7
        (tmp_path / name).write_bytes(flipped)
        with pytest.raises(StudyError, match=r"again|rerun") as caught:
            load_model(tmp_path)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", [QUANTO, MAP])
def test_a_missing_file(build_model: BuildModel, tmp_path: Path, name: str) -> None:
    save_compressed(quantized(build_model("deep"), 8), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(StudyError, match="run the stage"):
        load_model(tmp_path)


def test_another_shape_than_config_json(build_model: BuildModel, tmp_path: Path) -> None:
    save_compressed(quantized(build_model("deep"), 8), tmp_path)
    build_model("wide").config.save_pretrained(tmp_path)
    with pytest.raises(StudyError, match="do not fit"):
        load_model(tmp_path)


def test_a_diverged_model_is_one_clear_error(build_model: BuildModel) -> None:
    model = build_model("deep")
    with torch.no_grad():
        model.model.encoder.layers[0].fc1.weight[0, 0] = float("nan")
    with pytest.raises(StudyError, match="diverged"):
        quantized(model, 8)
