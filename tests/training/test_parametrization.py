"""muP's coordinate check (Yang et al. 2022, Appendix D.1): how far a step moves activations must not depend on the width."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.corpora.batches import Batch
from pipeline.models.seq2seq import build
from pipeline.size import SizeSpec
from pipeline.training.forward import FusedForward, ReferenceForward
from pipeline.training.objectives import CrossEntropy
from pipeline.training.parametrization import rate_factors, scale_initial

WIDTHS = [32, 64, 128, 256, 512]
VOCABULARY = 100
STEPS = 4


def _batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(4, VOCABULARY, (8, 9), generator=generator)
    target = source.flip(1)
    decoder_input = torch.cat([torch.zeros(8, 1, dtype=torch.int64), target[:, :-1]], 1)
    return Batch(
        source=source,
        source_mask=torch.ones_like(source),
        decoder_input=decoder_input,
        labels=target,
        indices=torch.arange(8),
    )


def _changes(width: int, base_width: int | None) -> dict[str, float]:
    """Return the root mean square change, over some steps of training, of activations inside the model and of its logits."""
    model = build(SizeSpec(d_model=width, num_layers=2), vocab_size=VOCABULARY, seed=0)
    scale_initial(model, base_width=base_width)
    seen: dict[str, torch.Tensor] = {}
    decoder = model.model.decoder.layers
    parts = {
        "embedding": model.model.encoder.layers[0].self_attn_layer_norm,
        "attention": decoder[0].encoder_attn.out_proj,
        "ffn": decoder[1].fc2,
        "logits": model.lm_head,
    }

    def activations() -> dict[str, torch.Tensor]:
        def hook(name: str):
            def keep(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
                seen[name] = (inputs[0] if name == "embedding" else output).detach().clone()

            return keep

        handles = [module.register_forward_hook(hook(name)) for name, module in parts.items()]
        batch = _batch(99)
        with torch.no_grad():
            model(input_ids=batch.source, attention_mask=batch.source_mask, decoder_input_ids=batch.decoder_input)
        for handle in handles:
            handle.remove()
        return dict(seen)

    forward = FusedForward(model, precision="fp32", mup_base_width=base_width)
    optimizer = forward.weights.adamw(learning_rate=4e-3, weight_decay=0.0)
    before = activations()
    for step in range(STEPS):
        CrossEntropy(label_smoothing=0.0)(forward, _batch(step), step=step).backward()
        forward.weights.gather_gradient()
        optimizer.step()
        forward.weights.refresh()
    after = activations()
    return {name: float((after[name] - before[name]).square().mean().sqrt()) for name in parts}


def _slopes(base_width: int | None) -> dict[str, float]:
    """Return how each change grows with the width: the slope of its logarithm against the width's."""
    changes = [_changes(width, base_width) for width in WIDTHS]
    logs = np.log(WIDTHS)
    return {name: float(np.polyfit(logs, [math.log(c[name]) for c in changes], 1)[0]) for name in changes[0]}


def test_under_mup_updates_move_activations_alike_at_every_width_and_without_it_they_grow() -> None:
    with_mup, without = _slopes(32), _slopes(None)
    assert all(abs(slope) < 0.25 for slope in with_mup.values()), with_mup
    assert all(slope > 0.25 for slope in without.values()), without


def test_at_the_base_width_mup_changes_nothing() -> None:
    model = build(SizeSpec(d_model=32, num_layers=1), vocab_size=VOCABULARY, seed=0)
    before = model.model.decoder.layer_norm.weight.detach().clone()
    scale_initial(model, base_width=32)
    assert torch.equal(model.model.decoder.layer_norm.weight, before)
    assert set(rate_factors(model, base_width=32).values()) == {1.0}


@pytest.mark.parametrize("kind", [FusedForward, ReferenceForward])
def test_every_weight_learns_at_its_own_rate(kind: type[FusedForward | ReferenceForward]) -> None:
    """After one step of Adam without decay a weight that had a gradient has moved by its rate."""
    model = build(SizeSpec(d_model=64, num_layers=1), vocab_size=VOCABULARY, seed=0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    forward = kind(model, precision="fp32", mup_base_width=16)
    optimizer = forward.weights.adamw(learning_rate=1e-3, weight_decay=0.0)
    CrossEntropy(label_smoothing=0.0)(forward, _batch(0), step=0).backward()
    forward.weights.gather_gradient()
    optimizer.step()
    moved = {name: (p.detach() - before[name]).abs().max().item() / 1e-3 for name, p in model.named_parameters()}
    assert moved["model.shared.weight"] == pytest.approx(0.5, rel=0.01)
    assert moved["model.decoder.layer_norm.weight"] == pytest.approx(0.5, rel=0.01)
    assert moved["model.encoder.layers.0.fc1.weight"] == pytest.approx(0.25, rel=0.01)
    assert moved["model.encoder.layers.0.fc1.bias"] == pytest.approx(1.0, rel=0.01)
