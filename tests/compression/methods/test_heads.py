"""Heads: the smallest go, those that do nothing are not missed, and what is left trains and decodes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.compression.formats import load_model, save_compressed
from pipeline.compression.registry import METHODS
from pipeline.errors import StudyError
from pipeline.models.checkpoint import load_dense
from pipeline.recipes import Heads, Layers, Uniform
from tests.compression.methods.shrunk import SIZE, applied, check_removal, logits, some_model

STEP = partial(Heads, method="heads")
HEAD = 8  # columns


def _attentions(model) -> list:
    decoder = [part for layer in model.model.decoder.layers for part in (layer.self_attn, layer.encoder_attn)]
    return [layer.self_attn for layer in model.model.encoder.layers] + decoder


@pytest.mark.parametrize("fraction", [0.25, 0.75])
def test_it_leaves_a_sound_model(fraction: float, tmp_path: Path) -> None:
    candidate = check_removal(lambda share: STEP(fraction=share), fraction, tmp_path)
    assert not candidate.size.is_standard
    assert candidate.model.config.head_dim == HEAD


@pytest.mark.parametrize("bits", [32, 4])
def test_what_is_saved_is_what_is_loaded(bits: int, tmp_path: Path) -> None:
    candidate = applied(STEP(fraction=0.25), some_model())
    METHODS["uniform"](candidate, Uniform(method="uniform", bits=bits), None)
    save_compressed(candidate, tmp_path)
    loaded = load_model(tmp_path)
    assert torch.equal(logits(loaded), logits(candidate.model))
    assert loaded.lm_head.weight is loaded.model.shared.weight
    with pytest.raises(StudyError, match=r"heads were pruned.*pipeline\.compression\.formats\.load_model"):
        load_dense(tmp_path)


def test_heads_that_do_nothing_are_not_missed() -> None:
    model = some_model()
    with torch.no_grad():
        for number, attention in enumerate(_attentions(model)):
            for head in (number % 4, (number + 1 + number // 4) % 4):
                columns = slice(head * HEAD, (head + 1) * HEAD)
                attention.out_proj.weight[:, columns] = 0
                attention.v_proj.weight[columns] *= 0.1
    after = applied(STEP(fraction=0.5), model).model
    assert torch.allclose(logits(after), logits(model), atol=1e-5)


def test_the_heads_of_smallest_magnitude_go_attention_by_attention() -> None:
    model = some_model()
    after = applied(STEP(fraction=0.5), model).model
    for old, new in zip(_attentions(model), _attentions(after), strict=True):
        inward = sum(getattr(old, f"{part}_proj").weight.square().sum(1) for part in "qkv")
        magnitude = (inward + old.out_proj.weight.square().sum(0)).view(4, HEAD).sum(1)
        kept = magnitude.argsort(descending=True)[:2].sort().values
        columns = (kept.unsqueeze(1) * HEAD + torch.arange(HEAD)).flatten()
        for part in "qkv":
            assert torch.equal(getattr(new, f"{part}_proj").weight, getattr(old, f"{part}_proj").weight[columns])
            assert torch.equal(getattr(new, f"{part}_proj").bias, getattr(old, f"{part}_proj").bias[columns])
        assert torch.equal(new.out_proj.weight, old.out_proj.weight[:, columns])
        assert torch.equal(new.out_proj.bias, old.out_proj.bias)


def test_heads_go_twice_and_layers_after_them() -> None:
    once = applied(STEP(fraction=0.25), some_model())
    twice = applied(Heads(method="heads", fraction=1 / 3), once.model, once.size)
    assert torch.equal(logits(twice.model), logits(applied(STEP(fraction=0.5), some_model()).model))
    fewer = applied(Layers(method="layers", fraction=1 / 3), twice.model, twice.size)
    assert fewer.size.key == "w32x2h2d8f48"
    assert fewer.model.generate(torch.tensor([[5, 2]]), max_new_tokens=3).shape[0] == 1
    assert fewer.trained_size == twice.size != SIZE
