"""What is saved is what is loaded, bit by bit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.m2m_100 import M2M100ForConditionalGeneration

from pipeline.compression.formats import load_compressed, load_model, save_compressed, size_bytes
from pipeline.compression.pruning import apply_masks, compressible, magnitude_masks
from pipeline.compression.quantization import quantize_dequantize
from pipeline.errors import StudyError

BuildModel = Callable[[str], M2M100ForConditionalGeneration]

CASES = [(bits, sparsity) for bits in (None, *range(2, 9)) for sparsity in (0.0, 0.9) if bits or sparsity]


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(left.detach().view(torch.int32), right.detach().view(torch.int32))


def logits(model: M2M100ForConditionalGeneration) -> torch.Tensor:
    source = torch.tensor([[5, 7, 11, 2], [9, 2, 1, 1]])
    with torch.no_grad():
        result = model(
            input_ids=source, attention_mask=(source != 1).long(), decoder_input_ids=torch.tensor([[0, 8, 4]] * 2)
        )
    return result.logits


@pytest.mark.parametrize(("bits", "sparsity"), CASES)
def test_loading_gives_exactly_the_compressed_model(
    model: M2M100ForConditionalGeneration, tmp_path: Path, bits: int | None, sparsity: float
) -> None:
    original = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    masks = magnitude_masks(compressible(model), sparsity) if sparsity else None
    save_compressed(model, tmp_path, bits=bits, masks=masks)
    loaded = load_compressed(tmp_path)

    assert all(same_bits(parameter, original[name]) for name, parameter in model.named_parameters())
    expected = {}
    for name, weight in original.items():
        mask = masks[name] if masks and weight.ndim == 2 else None
        if weight.ndim == 2 and bits:
            values = quantize_dequantize(weight.numpy(), bits, None if mask is None else mask.numpy())
            expected[name] = torch.from_numpy(values)
        else:
            expected[name] = weight if mask is None else weight.masked_fill(~mask, 0.0)
    assert list(dict(loaded.named_parameters())) == list(expected)
    assert all(same_bits(parameter, expected[name]) for name, parameter in loaded.named_parameters())

    assert not loaded.training
    assert loaded.config._attn_implementation == "eager"
    tied = (loaded.lm_head, loaded.model.encoder.embed_tokens, loaded.model.decoder.embed_tokens)
    assert all(module.weight is loaded.model.shared.weight for module in tied)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(expected[name])
    assert torch.equal(logits(loaded), logits(model))  # positions too, which no file holds


def test_a_pruned_model_in_memory_is_the_one_on_disk(model: M2M100ForConditionalGeneration, tmp_path: Path) -> None:
    masks = magnitude_masks(compressible(model), 0.5)
    apply_masks(model, masks)
    save_compressed(model, tmp_path, bits=None, masks=masks)
    for name, parameter in load_compressed(tmp_path).named_parameters():
        assert same_bits(parameter, model.get_parameter(name))


def test_the_same_weights_give_the_same_bytes_in_every_process(build_model: BuildModel, tmp_path: Path) -> None:
    model = build_model("deep")
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters(), start=1):
            places = np.arange(number, number + parameter.numel()) * 7919 % 4093  # no generator: the same everywhere
            parameter.copy_(torch.from_numpy((places / 4096 - 0.5).astype(np.float32)).reshape(parameter.shape))
    masks = magnitude_masks(compressible(model), 0.5)
    for _ in range(4):  # the order of a hash table would differ sooner or later
        data = save_compressed(model, tmp_path, bits=3, masks=masks).read_bytes()
        # Another sum is another format: files written before are then to be told apart by VERSION.
        assert hashlib.sha256(data).hexdigest() == "22c9fd4c550f2aac3804c40cf461e0d294d71dd90e32ab715bd1699299176d1a"


def test_loading_leaves_the_random_generator_alone(model: M2M100ForConditionalGeneration, tmp_path: Path) -> None:
    save_compressed(model, tmp_path, bits=8, masks=None)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    load_compressed(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_generation_settings_travel_with_the_model(build_model: BuildModel, tmp_path: Path) -> None:
    model = build_model("deep")
    assert model.generation_config is not None
    model.generation_config.update(max_length=77, num_beams=3)
    save_compressed(model, tmp_path, bits=8, masks=None)
    loaded = load_compressed(tmp_path)
    assert loaded.generation_config is not None
    assert (loaded.generation_config.max_length, loaded.generation_config.num_beams) == (77, 3)
    assert len(loaded.generate(input_ids=torch.tensor([[5, 7, 11, 2]]), max_length=8)) == 1


def test_load_model_takes_what_is_there(build_model: BuildModel, tmp_path: Path) -> None:
    model = build_model("wide")
    model.save_pretrained(tmp_path / "dense")
    save_compressed(model, tmp_path / "packed", bits=8, masks=None)
    assert torch.equal(logits(load_model(tmp_path / "dense")), logits(model))
    assert torch.allclose(logits(load_model(tmp_path / "packed")), logits(model), atol=0.5)
    assert size_bytes(tmp_path / "packed") < size_bytes(tmp_path / "dense")


def test_more_bits_are_closer(build_model: BuildModel, tmp_path: Path) -> None:
    model = build_model("wide")
    errors = []
    for bits in range(2, 9):
        save_compressed(model, tmp_path, bits=bits, masks=None)
        errors.append(float((logits(load_compressed(tmp_path)) - logits(model)).norm()))
    assert np.argsort(errors).tolist() == list(range(6, -1, -1))


def test_saving_refuses_what_it_cannot_save(build_model: BuildModel, tmp_path: Path) -> None:
    model = build_model("deep")
    masks = magnitude_masks(compressible(model), 0.5)
    for bits in (1, 9):
        with pytest.raises(StudyError, match="from 2 to 8"):
            save_compressed(model, tmp_path, bits=bits, masks=None)
    with pytest.raises(ValueError, match="neither bits nor masks"):
        save_compressed(model, tmp_path, bits=None, masks=None)
    for name, mask in (
        ("lm_head.weight", masks["model.shared.weight"]),  # a tied name, not the first one
        ("model.shared.weight", masks["model.shared.weight"].T),
        ("model.shared.weight", masks["model.shared.weight"].float()),
    ):
        with pytest.raises(ValueError, match="fits no weight matrix"):
            save_compressed(model, tmp_path, bits=4, masks={name: mask})
    last = list(masks)[-1]
    for some in ({}, {name: mask for name, mask in masks.items() if name != last}):
        with pytest.raises(ValueError, match=f"have no mask: .*{last}"):
            save_compressed(model, tmp_path, bits=4, masks=some)
    with torch.no_grad():
        model.model.encoder.layer_norm.bias[0] = float("nan")
    with pytest.raises(StudyError, match="diverged"):
        save_compressed(model, tmp_path, bits=4, masks=masks)
    assert list(tmp_path.iterdir()) == []
