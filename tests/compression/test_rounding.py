"""Rounding on the device against the one that writes files, row by row, and where fp16 is strained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compression.bit_widths import EMBEDDING
from pipeline.compression.pruning import compressible, magnitude_masks
from pipeline.compression.quantization import quantize_dequantize
from pipeline.compression.rounding import RowRounding, half_below
from pipeline.models.seq2seq import build
from pipeline.size import SizeSpec
from pipeline.training.forward import FusedForward, ReferenceForward
from pipeline.training.weights import FlatWeights, Leaf

SIZE = SizeSpec(d_model=32, num_layers=2)


def _one_matrix(values: torch.Tensor) -> FlatWeights:
    module = nn.Linear(values.shape[1], values.shape[0], bias=False)
    with torch.no_grad():
        module.weight.copy_(values)
    weights = FlatWeights(module, [Leaf(("weight",))], dtype=torch.float32)
    weights.part_latent()
    return weights


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", [FusedForward, ReferenceForward])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_a_models_weights_are_rounded_as_its_file_will_be(
    bits: int, kind: type[FusedForward] | type[ReferenceForward], masked: bool
) -> None:
    model = build(SIZE, vocab_size=101, seed=0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    widths = dict.fromkeys(compressible(model), bits) | {EMBEDDING: 5}
    del widths["model.encoder.layers.0.fc2.weight"]
    masks = magnitude_masks({name: before[name] for name in widths}, 0.6) if masked else {}
    weights = kind(model, precision="fp32").weights
    weights.part_latent()
    if masked:
        weights.latent.mul_(weights.flat_mask(masks))
    latent = weights.latent.clone()
    RowRounding(weights, masks, bits=widths)()
    assert torch.equal(weights.latent, latent)
    same = total = 0
    for name, parameter in model.named_parameters():
        if name not in widths:
            assert torch.equal(parameter, before[name]), name
            continue
        mask = masks[name].numpy() if masked else None
        expected = quantize_dequantize(before[name].numpy(), widths[name], mask)
        found = parameter.detach().numpy()
        assert len(np.unique(found[5])) <= 2 ** widths[name] + masked
        if mask is not None:
            assert not found[~mask].any()
        same += int((found == expected).sum())
        total += found.size
    assert same >= 0.999 * total


def test_rows_that_strain_fp16_are_rounded_alike() -> None:
    random = np.random.default_rng(0)
    rows = [np.zeros(64), np.full(64, 0.5), np.full(64, 0.1), np.full(64, -3e-3), random.normal(size=64) * 1e-7]
    rows += [random.normal(size=64) * 2e4, random.uniform(0.3, 0.3001, 64), -np.abs(random.normal(size=64)) * 1e-5]
    values = np.stack(rows).astype(np.float32)
    for bits in range(2, 9):
        weights = _one_matrix(torch.from_numpy(values))
        RowRounding(weights, {}, bits={"weight": bits})()
        assert np.array_equal(weights.master.view(8, 64).numpy(), quantize_dequantize(values, bits)), bits


def test_a_row_that_is_pruned_away_is_zero() -> None:
    weights = _one_matrix(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[1] = False
    weights.latent.mul_(weights.flat_mask({"weight": mask}))
    RowRounding(weights, {"weight": mask}, bits={"weight": 4})()
    rounded = weights.master.view(3, 8)
    assert not rounded[1].any()
    assert rounded[[0, 2]].all()


def test_a_weight_that_is_not_finite_is_not_hidden() -> None:
    for value in (float("nan"), float("inf"), 1e30):
        weights = _one_matrix(torch.tensor([[0.0, value, 1.0]]))
        RowRounding(weights, {}, bits={"weight": 3})()
        assert not torch.isfinite(weights.master).all()


def test_half_below_is_numpys() -> None:
    random = np.random.default_rng(1)
    values = np.concatenate([random.normal(size=500) * 10.0**power for power in range(-9, 5)])
    values = np.concatenate([values, [0.0, -0.0, 65504.0, -65504.0, 65505.0, 2.0**-24, 2.0**-25, -(2.0**-25)]])
    nearest = values.astype(np.float16)
    with np.errstate(over="ignore"):
        below = np.nextafter(nearest, np.float16(-np.inf))
    expected = np.where(nearest.astype(np.float64) > values, below, nearest)
    assert np.array_equal(half_below(torch.from_numpy(values)).numpy(), expected.astype(np.float64))
