"""FFN columns: the smallest go, and those that do nothing are not missed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.compression.methods.ffn import keep_ffn
from pipeline.recipes import Ffn
from pipeline.size import SizeSpec
from tests.compression.methods.shrunk import SIZES, applied, attentions, check_removal, ffns, logits, some_model

STEP = partial(Ffn, method="ffn")
TASKS = pytest.mark.parametrize("task", SIZES)


@TASKS
@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_it_leaves_a_sound_model(fraction: float, task: str, tmp_path: Path) -> None:
    check_removal(lambda share: STEP(fraction=share), fraction, tmp_path, task=task)


@TASKS
def test_columns_that_do_nothing_are_not_missed(task: str) -> None:
    model = some_model(SIZES[task])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for first, second in ffns(model):
            dead = torch.randperm(48, generator=generator)[:12]
            second.weight[:, dead] = 0
            first.weight[dead] *= 0.01
    after = applied(STEP(fraction=0.25), model, SIZES[task]).model
    assert torch.allclose(logits(after), logits(model), atol=1e-5)


@TASKS
def test_the_columns_of_smallest_magnitude_go_layer_by_layer(task: str) -> None:
    model = some_model(SIZES[task])
    after = keep_ffn(model, SIZES[task].changed(ffn_dim=30))
    for (first, second), (new_first, new_second) in zip(ffns(model), ffns(after), strict=True):
        magnitude = first.weight.square().sum(1) + second.weight.square().sum(0)
        kept = magnitude.argsort(descending=True)[:30].sort().values
        assert torch.equal(new_first.weight, first.weight[kept])
        assert torch.equal(new_first.bias, first.bias[kept])
        assert torch.equal(new_second.weight, second.weight[:, kept])
    for old, new in zip(attentions(model), attentions(after), strict=True):
        assert torch.equal(new[0].weight, old[0].weight)


def test_no_column_is_lost_to_rounding() -> None:
    size = SizeSpec(d_model=16, num_layers=1, num_heads=2, ffn_dim=100)
    for fraction in (0.07, 0.29, 0.57):  # 100 x (1 - fraction) is not exact in floating point
        after = applied(STEP(fraction=fraction), some_model(size), size)
        assert after.model.config.encoder_ffn_dim == after.size.ffn_dim == round(100 * (1 - fraction))
