"""FLOPs by part, forward and backward apart, and parameters, against PyTorch's own counters over a grid of shapes."""

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
    decode_flops,
    forward_flops,
    forward_flops_by_part,
    inference_flops_per_token,
    parameters_by_group,
    parameters_total,
    train_flops,
)
from pipeline.models.seq2seq import build
from pipeline.size import SizeSpec
from tests.sizes import study_sizes

SMALL = [
    SizeSpec(d_model=16, num_layers=1, num_heads=1, ffn_dim=64),
    SizeSpec(d_model=32, num_layers=2, num_heads=2, ffn_dim=128),
    SizeSpec(d_model=24, num_layers=3, num_heads=2, ffn_dim=40),
    SizeSpec(d_model=30, num_layers=2, num_heads=5, ffn_dim=7),
    SizeSpec(d_model=32, num_layers=2, num_heads=3, head_dim=8, ffn_dim=40),  # one of four heads pruned
]
SHAPES = [(2, 5, 7), (3, 4, 4), (1, 9, 2), (2, 1, 6), (2, 3, 1), (1, 1, 1)]  # sentences, source and target positions
GRID = [(size, shape, 50) for size in SMALL for shape in SHAPES]
GRID += [(size, (3, 12, 10), vocabulary) for size, vocabulary in study_sizes()]

MODULES = {
    "encoder_attention": r"\.encoder\.layers\.\d+\.self_attn",
    "decoder_attention": r"\.decoder\.layers\.\d+\.self_attn",
    "cross_attention": r"\.encoder_attn",
    "ffn": r"\.fc[12]",
    "embedding": r"\.(shared|embed_tokens)",
    "logits": r"\.lm_head",
}
"""The modules of the real model that make up each part."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and the shape of a batch for it."""

    size: SizeSpec
    model: Any
    shape: tuple[int, int, int]
    vocab_size: int

    @property
    def positions(self) -> Positions:
        batch, source, target = self.shape
        return Positions.padded(batch=batch, source_length=source, target_length=target, scored=batch * target)

    def loss(self) -> torch.Tensor:
        batch, source, target = self.shape
        ids = torch.randint(4, self.vocab_size, (batch, source))
        labels = torch.randint(4, self.vocab_size, (batch, target))
        loss: torch.Tensor = self.model(
            input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=labels, labels=labels, use_cache=False
        ).loss
        return loss


@pytest.fixture(scope="module", params=GRID, ids=lambda case: f"{case[0].key}-{'x'.join(map(str, case[1]))}")
def case(request: pytest.FixtureRequest) -> Case:
    size, shape, vocabulary = request.param
    return Case(size=size, model=build(size, vocab_size=vocabulary, seed=0).train(), shape=shape, vocab_size=vocabulary)


def _counted(compute: Callable[[], torch.Tensor]) -> tuple[FlopCounterMode, FlopCounterMode]:
    """Return one counter that saw `compute` alone, and one that saw the backward of its sum alone."""
    forward, backward = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with forward:
        result = compute()
    with backward:
        result.sum().backward()
    return forward, backward


def test_forward_by_part_equals_the_counters_modules(case: Case) -> None:
    with FlopCounterMode(display=False) as counter:
        case.loss()
    by_module = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    ours = forward_flops_by_part(case.size, case.positions, vocab_size=case.vocab_size)
    assert ours.keys() == MODULES.keys()
    assert ours == {
        part: sum(flops for name, flops in by_module.items() if re.search(f"{pattern}$", name))
        for part, pattern in MODULES.items()
    }
    assert forward_flops(case.size, case.positions, vocab_size=case.vocab_size) == counter.get_total_flops()


def test_backward_by_part_equals_the_counter_on_each_module_alone(case: Case) -> None:
    """Alone, because the counter lays the backward of an attention at the door of its neighbours in the whole model."""
    model, (batch, source_length, target_length), d = case.model, case.shape, case.size.d_model
    encoder, decoder = model.model.encoder.layers[0], model.model.decoder.layers[0]
    source = torch.randn(batch, source_length, d, requires_grad=True)
    target = torch.randn(batch, target_length, d, requires_grad=True)
    ids = torch.randint(4, case.vocab_size, (batch, source_length))
    layers = case.size.num_layers
    modules: dict[str, tuple[int, Callable[[], torch.Tensor]]] = {
        "encoder_attention": (layers, lambda: encoder.self_attn(source)[0]),
        "decoder_attention": (layers, lambda: decoder.self_attn(target)[0]),
        "cross_attention": (layers, lambda: decoder.encoder_attn(target, key_value_states=source)[0]),
        "ffn": (layers, lambda: encoder.fc2(encoder.fc1(source)).sum() + decoder.fc2(decoder.fc1(target)).sum()),
        "embedding": (1, lambda: model.model.shared(ids)),
        "logits": (1, lambda: model.lm_head(target)),
    }
    counted = {part: (times, *_counted(compute)) for part, (times, compute) in modules.items()}
    forward = {part: times * counter.get_total_flops() for part, (times, counter, _) in counted.items()}
    backward = {part: times * counter.get_total_flops() for part, (times, _, counter) in counted.items()}
    assert forward_flops_by_part(case.size, case.positions, vocab_size=case.vocab_size) == forward
    assert backward_flops_by_part(case.size, case.positions, vocab_size=case.vocab_size) == backward


def test_a_step_of_the_whole_model_spares_no_gradient(case: Case) -> None:
    """The modules alone were given inputs that need gradients; in the model, so do those of the first layers."""
    forward, backward = _counted(case.loss)
    ours = backward_flops_by_part(case.size, case.positions, vocab_size=case.vocab_size)
    assert sum(ours.values()) == backward.get_total_flops()
    assert (
        train_flops(case.size, case.positions, vocab_size=case.vocab_size)
        == forward.get_total_flops() + backward.get_total_flops()
    )


def test_parameter_groups_are_the_models(case: Case) -> None:
    parameters = {name: parameter.numel() for name, parameter in case.model.named_parameters()}
    patterns = {"embedding": r"shared", "attention": r"_attn\.", "ffn": r"\.fc[12]\.", "norm": r"layer_norm\."}
    ours = parameters_by_group(case.size, vocab_size=case.vocab_size)
    assert ours == {
        group: sum(count for name, count in parameters.items() if re.search(pattern, name))
        for group, pattern in patterns.items()
    }
    assert sum(ours.values()) == sum(parameters.values())
    assert parameters_total(case.size, vocab_size=case.vocab_size) == sum(parameters.values())


lengths = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=20)


@given(lengths=lengths, size=st.sampled_from(SMALL))
def test_unpadded_is_the_sum_of_sentences_alone(lengths: list[tuple[int, int]], size: SizeSpec) -> None:
    together = Positions.unpadded(*np.array(lengths, dtype=np.int64).T)
    alone = [Positions.padded(batch=1, source_length=s, target_length=t, scored=t) for s, t in lengths]
    for by_part in (forward_flops_by_part, backward_flops_by_part):
        parts = [by_part(size, positions, vocab_size=50) for positions in alone]
        assert by_part(size, together, vocab_size=50) == {part: sum(row[part] for row in parts) for part in MODULES}


@given(lengths=lengths, size=st.sampled_from(SMALL))
def test_padding_costs_something_unless_lengths_are_equal(lengths: list[tuple[int, int]], size: SizeSpec) -> None:
    source, target = np.array(lengths, dtype=np.int64).T
    padded = Positions.padded(
        batch=len(lengths),
        source_length=int(source.max()),
        target_length=int(target.max()),
        scored=int(target.sum()),
    )
    on_padding = forward_flops(size, padded, vocab_size=50) - forward_flops(
        size, Positions.unpadded(source, target), vocab_size=50
    )
    assert on_padding >= 0
    assert (on_padding == 0) == (len(set(lengths)) == 1)


@pytest.mark.parametrize("size", SMALL, ids=lambda size: size.key)
@pytest.mark.parametrize(("source_length", "target_length"), [(6, 1), (3, 8)])
def test_decoding_equals_the_counter_on_a_greedy_search(size: SizeSpec, source_length: int, target_length: int) -> None:
    model = build(size, vocab_size=50, seed=0).eval()
    ids = torch.randint(4, 50, (1, source_length))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_beams=1,
            do_sample=False,
            min_new_tokens=target_length,
            max_new_tokens=target_length,
        )
    ours = decode_flops(size, source_length=source_length, target_length=target_length, beam=1, vocab_size=50)
    assert ours == counter.get_total_flops()


def test_inference_is_the_forward_pass_of_one_sentence_and_falls_with_density() -> None:
    size = SizeSpec(d_model=32, num_layers=2)
    one = Positions.padded(batch=1, source_length=6, target_length=8, scored=8)
    whole = forward_flops(size, one, vocab_size=50)
    lengths = {"source_length": 6.0, "target_length": 8.0, "vocab_size": 50}
    assert inference_flops_per_token(size, **lengths) == pytest.approx(whole / 8)
    half = inference_flops_per_token(size, **lengths, density=0.5)
    assert inference_flops_per_token(size, **lengths, density=0.0) < half < whole / 8
