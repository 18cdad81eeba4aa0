"""Layers: first and last stay, those that do nothing are not missed, and the decoder's cache is numbered anew."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.compression.methods.layers import kept_layers
from pipeline.recipes import Layers
from tests.compression.methods.shrunk import SIZES, applied, attentions, check_removal, ffns, logits, some_model

STEP = partial(Layers, method="layers")


def test_the_kept_are_the_most_evenly_spaced() -> None:
    assert kept_layers(12, 3) == [0, 6, 11]
    assert kept_layers(6, 3) == [0, 3, 5]
    assert kept_layers(4, 2) == [0, 3]
    assert kept_layers(2, 1) == [0]
    for count in range(1, 9):
        assert kept_layers(count, count) == list(range(count))
        for kept in range(2, count + 1):
            chosen = kept_layers(count, kept)
            assert (len(set(chosen)), chosen[0], chosen[-1]) == (kept, 0, count - 1)


@pytest.mark.parametrize("task", SIZES)
@pytest.mark.parametrize("fraction", [1 / 3, 2 / 3])
def test_it_leaves_a_sound_model(fraction: float, task: str, tmp_path: Path) -> None:
    model = check_removal(lambda share: STEP(fraction=share), fraction, tmp_path, task=task).model
    for number, layer in enumerate(model.model.decoder.layers if task == "translation" else []):
        assert layer.self_attn.layer_idx == layer.encoder_attn.layer_idx == number


@pytest.mark.parametrize("task", SIZES)
def test_layers_that_do_nothing_are_not_missed(task: str) -> None:
    model = some_model(SIZES[task])
    # Of three layers a side the middle one: its self-attention, in a decoder the one after it, and its FFN.
    attending, feeding = ([1], [1]) if task == "classification" else ([1, 5, 6], [1, 4])
    with torch.no_grad():
        for layer in [attentions(model)[i][-1] for i in attending] + [ffns(model)[i][-1] for i in feeding]:
            layer.weight.zero_()
            layer.bias.zero_()
    after = applied(STEP(fraction=1 / 3), model, SIZES[task]).model
    assert torch.allclose(logits(after), logits(model), atol=1e-5)
