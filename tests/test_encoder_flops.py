"""Encoders' FLOPs by part, forward and backward apart, and parameters, against PyTorch's own counters, with either head."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from pipeline.flops import (
    Positions,
    backward_flops_by_part,
    forward_flops,
    forward_flops_by_part,
    inference_flops_per_token,
    matrix_weights,
    parameters_by_group,
    parameters_total,
    train_flops,
)
from pipeline.models.building import build
from pipeline.size import SizeSpec
from tests.sizes import study_sizes

SMALL = [
    SizeSpec(architecture="encoder", positions=12, d_model=16, num_layers=1, num_heads=1, ffn_dim=64),
    SizeSpec(architecture="encoder", positions=12, d_model=24, num_layers=3, num_heads=2, ffn_dim=40),
    SizeSpec(architecture="encoder", positions=30, d_model=30, num_layers=2, num_heads=5, ffn_dim=7),
    SizeSpec(architecture="encoder", positions=12, d_model=32, num_layers=2, num_heads=3, head_dim=8, ffn_dim=40),
]  # of the last one of four heads was pruned
SHAPES = [(2, 5), (3, 12), (1, 1)]  # sequences, positions
GRID = [(size.changed(num_labels=n), shape, 50) for size in SMALL for n in (0, 3) for shape in SHAPES]
GRID += [(size.changed(num_labels=n), (3, 12), words) for size, words in study_sizes("encoder") for n in (0, 2)]

MASKED_LM = {"head": r"\.lm_head\.dense", "logits": r"\.lm_head\.decoder"}
CLASSIFIER = {"head": r"\.classifier\.dense", "logits": r"\.classifier\.out_proj"}
BODY = {
    "encoder_attention": r"\.layer\.\d+\.attention",
    "ffn": r"\.layer\.\d+\.(intermediate|output)",
    "embedding": r"\.embeddings",
}
"""The modules of the real model that make up each part."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and the shape of a batch for it, all of whose positions a masked LM's head is computed for."""

    size: SizeSpec
    model: Any
    shape: tuple[int, int]
    vocab_size: int

    @property
    def positions(self) -> Positions:
        batch, length = self.shape
        columns = 1 if self.size.num_labels else length
        return Positions.padded(batch=batch, source_length=length, target_length=columns, scored=batch * columns)

    @property
    def modules(self) -> dict[str, str]:
        return BODY | (CLASSIFIER if self.size.num_labels else MASKED_LM)

    def ids(self) -> torch.Tensor:
        return torch.randint(5, self.vocab_size, self.shape)

    def logits(self) -> torch.Tensor:
        ids = self.ids()
        logits: torch.Tensor = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return logits


@pytest.fixture(scope="module", params=GRID, ids=lambda case: f"{case[0].key}-{case[2]}-{'x'.join(map(str, case[1]))}")
def case(request: pytest.FixtureRequest) -> Case:
    size, shape, vocabulary = request.param
    return Case(size=size, model=build(size, vocab_size=vocabulary, seed=0).train(), shape=shape, vocab_size=vocabulary)


def _counted(compute: Callable[[], torch.Tensor]) -> tuple[FlopCounterMode, int]:
    """Return a counter that saw `compute` alone, and how many FLOPs the backward of its sum took."""
    forward, backward = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with forward:
        result = compute()
    with backward:
        result.sum().backward()
    return forward, backward.get_total_flops()


def test_forward_by_part_equals_the_counters_modules(case: Case) -> None:
    with FlopCounterMode(display=False) as counter:
        case.logits()
    by_module = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    ours = forward_flops_by_part(case.size, case.positions, vocab_size=case.vocab_size)
    assert ours == {
        part: sum(flops for name, flops in by_module.items() if re.search(f"{pattern}$", name))
        for part, pattern in case.modules.items()
    }
    assert forward_flops(case.size, case.positions, vocab_size=case.vocab_size) == counter.get_total_flops()


def test_backward_by_part_equals_the_counter_on_each_module_alone(case: Case) -> None:
    """Alone, because the counter lays the backward of a module at the door of its neighbours in the whole model."""
    model, d, layers = case.model, case.size.d_model, case.size.num_layers
    layer = model.roberta_prelayernorm.encoder.layer[0]
    states = torch.randn(*case.shape, d, requires_grad=True)
    scored = torch.randn(case.positions.scored, d, requires_grad=True)
    head = model.classifier if case.size.num_labels else model.lm_head
    output = head.out_proj if case.size.num_labels else head.decoder
    modules: dict[str, tuple[int, Callable[[], torch.Tensor]]] = {
        "encoder_attention": (layers, lambda: layer.attention(states)[0]),
        "ffn": (layers, lambda: layer.output(layer.intermediate(states), states)),
        "embedding": (1, lambda: model.roberta_prelayernorm.embeddings(case.ids())),
        "head": (1, lambda: head.dense(scored)),
        "logits": (1, lambda: output(scored)),
    }
    counted = {part: (times, *_counted(compute)) for part, (times, compute) in modules.items()}
    forward = {part: times * counter.get_total_flops() for part, (times, counter, _) in counted.items()}
    backward = {part: times * flops for part, (times, _, flops) in counted.items()}
    assert forward_flops_by_part(case.size, case.positions, vocab_size=case.vocab_size) == forward
    assert backward_flops_by_part(case.size, case.positions, vocab_size=case.vocab_size) == backward


def test_a_step_of_the_whole_model_spares_no_gradient(case: Case) -> None:
    forward, backward = _counted(case.logits)
    ours = backward_flops_by_part(case.size, case.positions, vocab_size=case.vocab_size)
    assert sum(ours.values()) == backward
    assert train_flops(case.size, case.positions, vocab_size=case.vocab_size) == forward.get_total_flops() + backward


def test_parameter_groups_and_matrix_weights_are_the_models(case: Case) -> None:
    parameters = dict(case.model.named_parameters())
    patterns = {
        "embedding": r"word_embeddings",
        "positions": r"(position|token_type)_embeddings",
        "attention": r"attention\.(self|output)\.",
        "ffn": r"layer\.\d+\.(intermediate|output)\.dense",
        "norm": r"LayerNorm",
        "head": r"^(lm_head|classifier)\.",
    }
    ours = parameters_by_group(case.size, vocab_size=case.vocab_size)
    assert ours == {
        group: sum(weight.numel() for name, weight in parameters.items() if re.search(pattern, name))
        for group, pattern in patterns.items()
    }
    total = sum(weight.numel() for weight in parameters.values())
    assert sum(ours.values()) == parameters_total(case.size, vocab_size=case.vocab_size) == total
    matrices = sum(weight.numel() for weight in parameters.values() if weight.ndim == 2)
    assert matrix_weights(case.size, vocab_size=case.vocab_size) == matrices


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=20),
    size=st.sampled_from([size.changed(num_labels=n) for size in SMALL for n in (0, 3)]),
)
def test_unpadded_is_the_sum_of_sequences_alone_and_no_target_counts(lengths: list[int], size: SizeSpec) -> None:
    sources = np.array(lengths, dtype=np.int64)
    scored = np.ones_like(sources) if size.num_labels else sources
    together = forward_flops_by_part(size, Positions.unpadded(sources, scored), vocab_size=50)
    alone = [
        forward_flops_by_part(
            size, Positions.padded(batch=1, source_length=s, target_length=t, scored=t), vocab_size=50
        )
        for s, t in zip(lengths, scored.tolist(), strict=True)
    ]
    assert together == {part: sum(row[part] for row in alone) for part in together}


@pytest.mark.parametrize("num_labels", [0, 3])
@pytest.mark.parametrize("size", SMALL, ids=lambda size: size.key)
def test_inference_is_the_forward_pass_of_one_sequence_and_falls_with_density(size: SizeSpec, num_labels: int) -> None:
    """Each token of a sequence bears its share; a classifier's head is one for them all, whatever its sentences' targets."""
    size, length = size.changed(num_labels=num_labels), 9
    model = build(size, vocab_size=50, seed=0).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.randint(5, 50, (1, length)))
    asked = {"source_length": float(length), "target_length": 1.0, "vocab_size": 50}
    assert inference_flops_per_token(size, **asked) == pytest.approx(counter.get_total_flops() / length)
    activations = size.num_layers * 2 * 2 * size.attention_dim * length  # the products with no weight in them
    assert inference_flops_per_token(size, **asked, density=0.0) == pytest.approx(activations)
    half = inference_flops_per_token(size, **asked, density=0.5)
    assert 2 * half == pytest.approx(counter.get_total_flops() / length + activations)
