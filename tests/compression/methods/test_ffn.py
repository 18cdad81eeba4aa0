"""FFN columns: the smallest go, and those that do nothing are not missed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.compression.methods.ffn import keep_ffn
from pipeline.recipes import Ffn
from pipeline.size import SizeSpec
from tests.compression.methods.shrunk import SIZE, applied, check_removal, logits, some_model

STEP = partial(Ffn, method="ffn")


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_it_leaves_a_sound_model(fraction: float, tmp_path: Path) -> None:
    check_removal(lambda share: STEP(fraction=share), fraction, tmp_path)


def test_columns_that_do_nothing_are_not_missed() -> None:
    model = some_model()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in [*model.model.encoder.layers, *model.model.decoder.layers]:
            dead = torch.randperm(48, generator=generator)[:12]
            layer.fc2.weight[:, dead] = 0
            layer.fc1.weight[dead] *= 0.01
    after = applied(STEP(fraction=0.25), model).model
    assert torch.allclose(logits(after), logits(model), atol=1e-5)


def test_the_columns_of_smallest_magnitude_go_layer_by_layer() -> None:
    model = some_model()
    after = keep_ffn(model, SizeSpec(**(SIZE.model_dump() | {"ffn_dim": 30})))
    for side in ("encoder", "decoder"):
        for old, new in zip(getattr(model.model, side).layers, getattr(after.model, side).layers, strict=True):
            magnitude = old.fc1.weight.square().sum(1) + old.fc2.weight.square().sum(0)
            kept = magnitude.argsort(descending=True)[:30].sort().values
            assert torch.equal(new.fc1.weight, old.fc1.weight[kept])
            assert torch.equal(new.fc1.bias, old.fc1.bias[kept])
            assert torch.equal(new.fc2.weight, old.fc2.weight[:, kept])
            assert torch.equal(new.self_attn.q_proj.weight, old.self_attn.q_proj.weight)


def test_no_column_is_lost_to_rounding() -> None:
    size = SizeSpec(d_model=16, num_layers=1, num_heads=2, ffn_dim=100)
    for fraction in (0.07, 0.29, 0.57):  # 100 x (1 - fraction) is not exact in floating point
        after = applied(STEP(fraction=fraction), some_model(size), size)
        assert after.model.config.encoder_ffn_dim == after.size.ffn_dim == round(100 * (1 - fraction))
