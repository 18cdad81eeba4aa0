"""Layers: first and last stay, those that do nothing are not missed, and the decoder's cache is numbered anew."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.compression.methods.layers import kept_layers
from pipeline.recipes import Layers
from tests.compression.methods.shrunk import applied, check_removal, logits, some_model

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


@pytest.mark.parametrize("fraction", [1 / 3, 2 / 3])
def test_it_leaves_a_sound_model(fraction: float, tmp_path: Path) -> None:
    model = check_removal(lambda share: STEP(fraction=share), fraction, tmp_path).model
    for number, layer in enumerate(model.model.decoder.layers):
        assert layer.self_attn.layer_idx == layer.encoder_attn.layer_idx == number


def test_layers_that_do_nothing_are_not_missed() -> None:
    model = some_model()
    with torch.no_grad():
        for side in ("encoder", "decoder"):
            layer = getattr(model.model, side).layers[1]
            for name, parameter in layer.named_parameters():
                if "out_proj" in name or "fc2" in name:
                    parameter.zero_()
    after = applied(STEP(fraction=1 / 3), model).model
    assert torch.allclose(logits(after), logits(model), atol=1e-5)
