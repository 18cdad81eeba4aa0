"""muP's coordinate check (Yang et al. 2022, Appendix D.1): how far a step moves activations must not depend on the width."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.corpora.batches import IGNORED, Batch
from pipeline.corpora.encoder_batches import EncoderBatch
from pipeline.models.building import build
from pipeline.models.parameters import learnt_parameters
from pipeline.size import SizeSpec
from pipeline.training.encoder_forward import FusedEncoder, ReferenceEncoder
from pipeline.training.forward import FusedForward, ReferenceForward, forward_of
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


def _encoder_batch(seed: int, num_labels: int) -> EncoderBatch:
    """Return sequences whose class is in their first word, or some of whose words are to be told from those around them."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(5, VOCABULARY, (8, 9), generator=generator)
    hidden = torch.rand(source.shape, generator=generator) > 0.4
    return EncoderBatch(
        source=source,
        source_mask=torch.ones_like(source),
        decoder_input=source[:, :0],
        labels=source[:, 1:2] % num_labels if num_labels else source.flip(1).masked_fill(hidden, IGNORED),
        indices=torch.arange(8),
    )


def _changes(
    model: Any,
    parts: dict[str, torch.nn.Module],
    *,
    batches: list[Batch],
    seen: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = lambda activations: activations,
    base_width: int | None,
) -> dict[str, float]:
    """Return the root mean square change of what is seen of the parts' outputs for the first batch, over training on the others."""
    scale_initial(model, base_width=base_width)
    first, *others = batches

    def activations() -> dict[str, torch.Tensor]:
        outputs: dict[str, torch.Tensor] = {}

        def hook(name: str):
            def keep(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
                outputs[name] = (inputs[0] if name == "input" else output).detach().clone()

            return keep

        handles = [module.register_forward_hook(hook(name)) for name, module in parts.items()]
        target = {} if isinstance(first, EncoderBatch) else {"decoder_input_ids": first.decoder_input}
        with torch.no_grad():
            model(input_ids=first.source, attention_mask=first.source_mask, **target)
        for handle in handles:
            handle.remove()
        return seen(outputs)

    forward = forward_of(model, precision="fp32", mup_base_width=base_width)
    optimizer = forward.weights.adamw(learning_rate=4e-3, weight_decay=0.0)
    before = activations()
    for step, batch in enumerate(others):
        CrossEntropy(label_smoothing=0.0)(forward, batch, step=step).backward()
        forward.weights.gather_gradient()
        optimizer.step()
        forward.weights.refresh()
    after = activations()
    return {name: float((after[name] - before[name]).square().mean().sqrt()) for name in before}


def _of_translation(width: int, base_width: int | None) -> dict[str, float]:
    model: Any = build(SizeSpec(d_model=width, num_layers=2), vocab_size=VOCABULARY, seed=0)
    decoder = model.model.decoder.layers
    parts = {
        "input": model.model.encoder.layers[0].self_attn_layer_norm,
        "attention": decoder[0].encoder_attn.out_proj,
        "ffn": decoder[1].fc2,
        "logits": model.lm_head,
    }
    return _changes(model, parts, batches=[_batch(seed) for seed in (99, *range(STEPS))], base_width=base_width)


def _of_encoder(width: int, base_width: int | None, num_labels: int) -> dict[str, float]:
    """Of the logits, what is learnt: how much further the right ones are above the others, on a sequence that was seen.

    The others' change falls with the width to what they have in common: among random rows less and less is by chance.
    """
    size = SizeSpec(architecture="encoder", d_model=width, num_layers=2, positions=9, num_labels=num_labels)
    model: Any = build(size, vocab_size=VOCABULARY, seed=0)
    layers = model.roberta_prelayernorm.encoder.layer
    parts = {
        "input": layers[0].attention.LayerNorm,
        "attention": layers[0].attention.output.dense,
        "ffn": layers[1].output.dense,
        "states": model.roberta_prelayernorm.LayerNorm,
        "logits": model.classifier.out_proj if num_labels else model.lm_head.decoder,
    }
    batches: list[Batch] = [_encoder_batch(seed, num_labels) for seed in (0, *(step % 2 for step in range(STEPS)))]
    labels = batches[0].labels[:, 0] if num_labels else batches[0].labels

    def seen(activations: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        scored = labels != IGNORED
        logits, right = activations["logits"][scored], labels[scored].unsqueeze(1)
        return activations | {"logits": logits.gather(1, right).mean() - logits.mean()}

    return _changes(model, parts, batches=batches, seen=seen, base_width=base_width)


def _slopes(changes: Callable[[int], dict[str, float]]) -> dict[str, float]:
    """Return how each change grows with the width: the slope of its logarithm against the width's."""
    by_width = [changes(width) for width in WIDTHS]
    logs = np.log(WIDTHS)
    return {name: float(np.polyfit(logs, [math.log(c[name]) for c in by_width], 1)[0]) for name in by_width[0]}


def test_under_mup_updates_move_activations_alike_at_every_width_and_without_it_they_grow() -> None:
    with_mup, without = (_slopes(lambda width, base=base: _of_translation(width, base)) for base in (32, None))
    assert all(abs(slope) < 0.25 for slope in with_mup.values()), with_mup
    assert all(slope > 0.25 for slope in without.values()), without


@pytest.mark.parametrize("num_labels", [0, 3])
def test_under_mup_so_do_those_of_encoders(num_labels: int) -> None:
    with_mup, without = (_slopes(lambda width, base=base: _of_encoder(width, base, num_labels)) for base in (32, None))
    assert all(abs(slope) < 0.25 for slope in with_mup.values()), with_mup
    assert all(without[name] > 0.35 for name in ("input", "attention", "ffn")), without


def test_at_the_base_width_mup_changes_nothing() -> None:
    model: Any = build(SizeSpec(d_model=32, num_layers=1), vocab_size=VOCABULARY, seed=0)
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


ENCODER = "roberta_prelayernorm.encoder.layer.0."
TABLES = [f"roberta_prelayernorm.embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")]


@pytest.mark.parametrize(
    ("num_labels", "factors"),
    [
        (0, {"lm_head.layer_norm.weight": 0.5, "lm_head.layer_norm.bias": 0.5, "lm_head.dense.weight": 0.25}),
        (3, {"classifier.dense.weight": 0.25, "classifier.out_proj.weight": 0.25, "classifier.out_proj.bias": 1.0}),
    ],
)
@pytest.mark.parametrize("kind", [FusedEncoder, ReferenceEncoder])
def test_every_weight_of_an_encoder_learns_at_its_own_rate(
    kind: type[FusedEncoder | ReferenceEncoder], num_labels: int, factors: dict[str, float]
) -> None:
    expected = {
        **factors,
        **dict.fromkeys(TABLES, 0.5),
        "roberta_prelayernorm.embeddings.LayerNorm.weight": 1.0,
        "roberta_prelayernorm.LayerNorm.weight": 1.0,
        f"{ENCODER}attention.LayerNorm.weight": 1.0,
        f"{ENCODER}attention.self.query.weight": 0.25,
        f"{ENCODER}attention.self.value.bias": 1.0,
        f"{ENCODER}attention.output.dense.weight": 0.25,
        f"{ENCODER}intermediate.dense.weight": 0.25,
        f"{ENCODER}output.dense.weight": 0.25,
    }
    size = SizeSpec(architecture="encoder", d_model=64, num_layers=1, positions=9, num_labels=num_labels)
    model: Any = build(size, vocab_size=VOCABULARY, seed=0)
    stated = rate_factors(model, base_width=16)
    assert stated.keys() == learnt_parameters(model).keys()
    assert {name: stated[name] for name in expected} == expected
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    forward = kind(model, precision="fp32", mup_base_width=16)
    optimizer = forward.weights.adamw(learning_rate=1e-3, weight_decay=0.0)
    CrossEntropy(label_smoothing=0.0)(forward, _encoder_batch(0, num_labels), step=0).backward()
    forward.weights.gather_gradient()
    optimizer.step()
    moved = {name: (p.detach() - before[name]).abs().max().item() / 1e-3 for name, p in model.named_parameters()}
    assert {name: moved[name] for name in expected} == pytest.approx(expected, rel=0.01)
    assert moved.get("lm_head.bias", 0.0) == 0.0


def test_of_an_encoders_first_values_mup_scales_the_masked_lms_last_norm_alone() -> None:
    size = SizeSpec(architecture="encoder", d_model=64, num_layers=1, positions=9)
    for num_labels, scaled in ((0, {"lm_head.layer_norm.weight"}), (3, set())):
        model = build(size.changed(num_labels=num_labels), vocab_size=VOCABULARY, seed=0)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        scale_initial(model, base_width=16)
        changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
        assert changed == scaled
        assert all(torch.equal(model.get_parameter(name), before[name] / 2) for name in scaled)
