"""What is saved is what is loaded, bit by bit."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForSeq2SeqLM
from transformers.models.m2m_100 import M2M100ForConditionalGeneration

from pipeline.compression.activation_rounding import range_of, round_inputs, rounds_inputs
from pipeline.compression.candidate import ActivationRange, Candidate, put_on_grid
from pipeline.compression.formats import (
    COMPRESSED,
    DENSE,
    load_compressed,
    load_model,
    read_contents,
    save_compressed,
    size_bytes,
    stored_numbers,
)
from pipeline.compression.pruning import compressible, magnitude_masks
from pipeline.compression.quantization import QuantizedTensor
from pipeline.errors import StudyError
from pipeline.models.seq2seq import build
from pipeline.size import SizeSpec
from tests.candidates import compressed, untouched
from tests.classifiers import encoder

BuildModel = Callable[[str], M2M100ForConditionalGeneration]

SETTINGS: dict[str, dict[str, Any]] = {
    "rows": {},
    "one grid a matrix": {"granularity": "tensor"},
    "groups that do not divide the columns": {"granularity": "group", "group_size": 12},
    "embedding with bits of its own": {"embedding_bits": 8},
    "embedding in fp32": {"embedding_bits": 32},
    "some matrices in fp32": {"keep": ["fc1", "decoder.layers.0.self_attn"]},
}
CASES = [
    *[(bits, sparsity, "rows") for bits in (None, *range(2, 9)) for sparsity in (0.0, 0.9) if bits or sparsity],
    *[(bits, sparsity, name) for bits in (3, 8) for sparsity in (0.0, 0.5) for name in SETTINGS if name != "rows"],
]


def again(candidate: Candidate, directory: Path) -> Candidate:
    """The candidate that a directory holds."""
    contents = read_contents(directory)
    return dataclasses.replace(
        candidate,
        model=contents.model,
        masks=contents.masks,
        quantized=contents.quantized,
        activations=contents.activations,
    )


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(left.detach().view(torch.int32), right.detach().view(torch.int32))


def logits(model: M2M100ForConditionalGeneration) -> torch.Tensor:
    source = torch.tensor([[5, 7, 11, 2], [9, 2, 1, 1]])
    with torch.no_grad():
        result = model(
            input_ids=source, attention_mask=(source != 1).long(), decoder_input_ids=torch.tensor([[0, 8, 4]] * 2)
        )
    return result.logits


@pytest.mark.parametrize(("bits", "sparsity", "settings"), CASES)
def test_loading_gives_exactly_the_candidate(
    model: M2M100ForConditionalGeneration, tmp_path: Path, bits: int | None, sparsity: float, settings: str
) -> None:
    candidate = compressed(model, bits=bits, sparsity=sparsity, **SETTINGS[settings])
    before = {name: parameter.detach().clone() for name, parameter in candidate.model.named_parameters()}
    path = save_compressed(candidate, tmp_path / "once")
    loaded = load_compressed(tmp_path / "once")
    assert path.name == COMPRESSED
    assert all(same_bits(parameter, before[name]) for name, parameter in candidate.model.named_parameters())
    assert list(dict(loaded.named_parameters())) == list(before)
    assert all(same_bits(parameter, before[name]) for name, parameter in loaded.named_parameters())

    assert not loaded.training
    assert loaded.config._attn_implementation == "eager"
    tied = (loaded.lm_head, loaded.model.encoder.embed_tokens, loaded.model.decoder.embed_tokens)
    assert all(module.weight is loaded.model.shared.weight for module in tied)
    assert torch.equal(logits(loaded), logits(candidate.model))  # positions too, which no file holds

    copied = again(candidate, tmp_path / "once")
    assert {name: mask.sum() for name, mask in copied.masks.items()} == {
        name: mask.sum() for name, mask in candidate.masks.items()
    }
    assert set(copied.quantized) == set(candidate.quantized)
    assert save_compressed(copied, tmp_path / "twice").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("bits", "sparsity", "settings"),
    [(None, 0.5, {}), (3, 0.5, {"embedding_bits": 8, "keep": ["classifier", "position"]}), (4, 0.0, {})],
)
def test_a_classifier_comes_back_exactly(
    tmp_path: Path, bits: int | None, sparsity: float, settings: dict[str, Any]
) -> None:
    candidate = compressed(encoder(), bits=bits, sparsity=sparsity, **settings)
    path = save_compressed(candidate, tmp_path / "once")
    loaded = load_model(tmp_path / "once")
    assert path.name == COMPRESSED
    before = dict(candidate.model.named_parameters())
    assert list(dict(loaded.named_parameters())) == list(before)
    assert all(same_bits(parameter, before[name]) for name, parameter in loaded.named_parameters())
    ids = torch.tensor([[0, 7, 11, 2], [0, 9, 2, 1]])
    with torch.no_grad():
        answers = [model(input_ids=ids, attention_mask=(ids != 1).long()).logits for model in (loaded, candidate.model)]
    assert torch.equal(*answers)
    assert type(loaded) is type(candidate.model)
    assert loaded.config.num_labels == 3
    copied = again(candidate, tmp_path / "once")
    assert save_compressed(copied, tmp_path / "twice").read_bytes() == path.read_bytes()


def test_codes_are_written_as_they_are_even_when_no_rounding_would_choose_them(
    build_model: BuildModel, tmp_path: Path
) -> None:
    candidate = compressed(build_model("deep"), bits=3)
    name = "model.encoder.layers.0.fc1.weight"
    codes = np.random.default_rng(0).integers(1, 6, size=candidate.quantized[name].codes.shape, dtype=np.uint8)
    changed: QuantizedTensor = dataclasses.replace(candidate.quantized[name], codes=codes)
    put_on_grid(candidate, name, changed)
    save_compressed(candidate, tmp_path)
    assert np.array_equal(read_contents(tmp_path).quantized[name].codes, codes)


def test_a_candidate_with_nothing_done_is_a_plain_checkpoint(build_model: BuildModel, tmp_path: Path) -> None:
    candidate = untouched(build_model("wide"))
    assert save_compressed(candidate, tmp_path).name == DENSE
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.equal(logits(plain), logits(candidate.model))
    assert stored_numbers(tmp_path) == ({}, {})


def test_ranges_of_inputs_are_kept_and_act_again(build_model: BuildModel, tmp_path: Path) -> None:
    candidate = compressed(build_model("deep"), bits=4)
    plain = logits(candidate.model)
    ranges = {
        "model.encoder.layers.1.fc2": range_of(-0.3, 0.2, 4),
        "model.decoder.layers.0.self_attn.q_proj": range_of(-1, 1.3, 8),
        "lm_head": range_of(-2, 2, 8),
    }
    candidate.activations = ranges
    round_inputs(candidate.model, ranges)
    path = save_compressed(candidate, tmp_path / "once")
    loaded = load_model(tmp_path / "once")
    assert read_contents(tmp_path / "once").activations == ranges
    assert torch.equal(logits(loaded), logits(candidate.model))
    assert not torch.equal(logits(loaded), plain)
    assert rounds_inputs(load_compressed(tmp_path / "once"))
    candidate.activations = {}
    save_compressed(candidate, tmp_path / "without")
    assert not rounds_inputs(load_compressed(tmp_path / "without"))
    candidate.activations = ranges
    copied = again(candidate, tmp_path / "once")
    assert save_compressed(copied, tmp_path / "twice").read_bytes() == path.read_bytes()


def test_pruned_heads_go_through_our_file_and_come_back(build_model: BuildModel, tmp_path: Path) -> None:
    size = SizeSpec(d_model=32, num_layers=1, num_heads=1, ffn_dim=64, head_dim=16)
    model = build(size, vocab_size=50, seed=3).eval()
    for bits in (None, 4):
        candidate = compressed(model, bits=bits)
        candidate.size = size
        assert save_compressed(candidate, tmp_path / str(bits)).name == COMPRESSED
        loaded = load_model(tmp_path / str(bits))
        assert loaded.get_parameter("model.encoder.layers.0.self_attn.q_proj.weight").shape == (16, 32)
        assert torch.equal(logits(loaded), logits(candidate.model))


@pytest.mark.parametrize("settings", SETTINGS)
def test_what_says_how_matrices_are_written_takes_little(
    build_model: BuildModel, tmp_path: Path, settings: str
) -> None:
    path = save_compressed(compressed(build_model("deep"), bits=3, sparsity=0.5, **SETTINGS[settings]), tmp_path)
    with safe_open(path, framework="np") as file:
        assert len(file.metadata()["compression"]) < 200


def test_stored_numbers_are_what_is_in_the_file(build_model: BuildModel, tmp_path: Path) -> None:
    candidate = compressed(build_model("deep"), bits=3, sparsity=0.5, embedding_bits=32, keep=["fc1"])
    save_compressed(candidate, tmp_path)
    bits, kept = stored_numbers(tmp_path)
    assert set(bits.values()) == {3}
    assert set(bits) == {name for name in candidate.masks if "fc1" not in name and "shared" not in name}
    assert kept == {name: int(mask.sum()) for name, mask in candidate.masks.items()}


def test_the_same_weights_give_the_same_bytes_in_every_process(build_model: BuildModel, tmp_path: Path) -> None:
    model = build_model("deep")
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters(), start=1):
            places = np.arange(number, number + parameter.numel()) * 7919 % 4093  # no generator: the same everywhere
            parameter.copy_(torch.from_numpy((places / 4096 - 0.5).astype(np.float32)).reshape(parameter.shape))
    candidate = compressed(model, bits=3, sparsity=0.5, embedding_bits=8)
    for _ in range(4):  # the order of a hash table would differ sooner or later
        data = save_compressed(candidate, tmp_path).read_bytes()
        # Another sum is another format: files written before are then to be told apart by VERSION.
        assert hashlib.sha256(data).hexdigest() == "6c4996161681a9ad3eaab8a991dff18127218d48904837b363a4059be7400ced"


def test_loading_leaves_the_random_generator_alone(model: M2M100ForConditionalGeneration, tmp_path: Path) -> None:
    save_compressed(compressed(model, bits=8), tmp_path)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    load_compressed(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_generation_settings_travel_with_the_model(build_model: BuildModel, tmp_path: Path) -> None:
    model = build_model("deep")
    assert model.generation_config is not None
    model.generation_config.update(max_length=77, num_beams=3)
    save_compressed(compressed(model, bits=8), tmp_path)
    loaded = load_compressed(tmp_path)
    assert loaded.generation_config is not None
    assert (loaded.generation_config.max_length, loaded.generation_config.num_beams) == (77, 3)
    assert len(loaded.generate(input_ids=torch.tensor([[5, 7, 11, 2]]), max_length=8)) == 1


def test_load_model_takes_what_is_there(build_model: BuildModel, tmp_path: Path) -> None:
    model = build_model("wide")
    model.save_pretrained(tmp_path / "dense")
    save_compressed(compressed(model, bits=8), tmp_path / "packed")
    assert torch.equal(logits(load_model(tmp_path / "dense")), logits(model))
    assert torch.allclose(logits(load_model(tmp_path / "packed")), logits(model), atol=0.5)
    assert size_bytes(tmp_path / "packed") < size_bytes(tmp_path / "dense")


def test_more_bits_are_closer(build_model: BuildModel, tmp_path: Path) -> None:
    model = build_model("wide")
    errors = []
    for bits in range(2, 9):
        save_compressed(compressed(model, bits=bits), tmp_path)
        errors.append(float((logits(load_compressed(tmp_path)) - logits(model)).norm()))
    assert np.argsort(errors).tolist() == list(range(6, -1, -1))


def test_saving_refuses_a_candidate_that_contradicts_itself(build_model: BuildModel, tmp_path: Path) -> None:
    def refused(match: str, *, sparsity: float = 0.5, bits: int | None = 4, **changes: Any) -> None:
        candidate = dataclasses.replace(compressed(build_model("deep"), bits=bits, sparsity=sparsity), **changes)
        with pytest.raises(ValueError, match=match):
            save_compressed(candidate, tmp_path)

    name = "model.shared.weight"
    mask = magnitude_masks(compressible(build_model("deep")), 0.5)[name]
    for masks in ({"lm_head.weight": mask}, {name: mask.T}, {name: mask.float()}):  # a tied name is not the first one
        refused("fits no weight matrix", masks=masks)
    refused("another mask than it has", masks={})
    refused("pruned weights that are not 0", sparsity=0, bits=None, masks={name: mask})
    refused("changed after it was quantized", model=build_model("deep"), masks={})
    limits = ActivationRange(bits=8, minimum=0.1, scale=0.5)
    refused("no linear layer: model.shared", activations={"model.shared": limits})
    refused("must be fp32 numbers", activations={"model.encoder.layers.0.fc1": limits})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_a_diverged_model_is_not_saved(build_model: BuildModel, tmp_path: Path, sparsity: float) -> None:
    candidate = compressed(build_model("deep"), sparsity=sparsity)
    with torch.no_grad():
        candidate.model.model.encoder.layer_norm.bias[0] = float("nan")
    with pytest.raises(StudyError, match="diverged"):
        save_compressed(candidate, tmp_path)
    assert list(tmp_path.iterdir()) == []
