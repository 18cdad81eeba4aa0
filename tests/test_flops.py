"""FLOPs and parameters against PyTorch's own counters, over a grid of shapes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.flops import (
    forward_flops,
    forward_flops_by_part,
    inference_flops_per_token,
    parameters_by_group,
    train_flops,
)
from pipeline.models.seq2seq import build
from pipeline.study import SizeSpec

VOCABULARY = 50
SHAPES = [(16, 1, 1, 64, 2, 5, 7), (32, 2, 2, 128, 3, 4, 4), (24, 3, 2, 40, 1, 9, 2)]


def _counted(shape: tuple[int, ...], *, backward: bool) -> tuple[SizeSpec, dict[str, int], int]:
    d, layers, heads, ffn, batch, source, target = shape
    size = SizeSpec(d_model=d, num_layers=layers, num_heads=heads, ffn_dim=ffn)
    model = build(size, vocab_size=VOCABULARY, seed=0)
    ids = torch.randint(4, VOCABULARY, (batch, source))
    labels = torch.randint(4, VOCABULARY, (batch, target))
    with FlopCounterMode(display=False) as counter:
        loss = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=labels, labels=labels, use_cache=False
        ).loss
        if backward:
            loss.backward()
    shapes = {
        "batch": batch,
        "source_length": source,
        "target_length": target,
        "scored_positions": batch * target,
        "vocab_size": VOCABULARY,
    }
    return size, shapes, counter.get_total_flops()


@pytest.mark.parametrize("shape", SHAPES)
def test_forward_matmuls_equal_the_counter(shape: tuple[int, ...]) -> None:
    size, shapes, counted = _counted(shape, backward=False)
    assert forward_flops(size, **shapes) == counted
    assert sum(forward_flops_by_part(size, **shapes).values()) == counted


@pytest.mark.parametrize("shape", SHAPES)
def test_training_matmuls_equal_the_counter(shape: tuple[int, ...]) -> None:
    size, shapes, counted = _counted(shape, backward=True)
    assert train_flops(size, **shapes) == counted


@pytest.mark.parametrize("shape", SHAPES)
def test_parameter_groups_sum_to_the_model(shape: tuple[int, ...]) -> None:
    d, layers, heads, ffn, *_ = shape
    size = SizeSpec(d_model=d, num_layers=layers, num_heads=heads, ffn_dim=ffn)
    model = build(size, vocab_size=VOCABULARY, seed=0)
    groups = parameters_by_group(size, vocab_size=VOCABULARY)
    assert sum(groups.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert groups["embedding"] == model.model.shared.weight.numel()


def test_inference_is_the_forward_pass_of_one_sentence_and_falls_with_density() -> None:
    size = SizeSpec(d_model=32, num_layers=2)
    whole = forward_flops(size, batch=1, source_length=6, target_length=8, scored_positions=8, vocab_size=VOCABULARY)
    lengths = {"source_length": 6.0, "target_length": 8.0, "vocab_size": VOCABULARY}
    assert inference_flops_per_token(size, **lengths) == pytest.approx(whole / 8)
    half = inference_flops_per_token(size, **lengths, density=0.5)
    assert inference_flops_per_token(size, **lengths, density=0.0) < half < whole / 8
