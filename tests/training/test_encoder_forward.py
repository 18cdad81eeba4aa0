"""Encoders' forward passes against transformers' own modules: losses, and the gradient of every parameter."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from pipeline.corpora.batches import IGNORED
from pipeline.corpora.encoder_batches import EncoderBatch
from pipeline.models.building import build, set_dropout
from pipeline.models.encoder import classifier_of
from pipeline.models.parameters import learnt_parameters
from pipeline.size import SizeSpec
from pipeline.training.encoder_forward import FusedEncoder, ReferenceEncoder
from pipeline.training.forward import forward_of
from pipeline.training.objectives import CrossEntropy

VOCABULARY = 90
SIZE = SizeSpec(architecture="encoder", d_model=64, num_layers=2, positions=16)
CLASSIFIER = SIZE.changed(num_labels=3)
SIZES = [SIZE, CLASSIFIER, SIZE.changed(num_heads=1, head_dim=32), CLASSIFIER.changed(num_heads=1, head_dim=32)]


def some_batch(size: SizeSpec, *, padded: bool = True) -> EncoderBatch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCABULARY, (5, 12), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        mask[2, 8:] = mask[4, 5:] = 0
        ids[mask == 0] = 1
    if size.num_labels:
        labels = torch.randint(0, size.num_labels, (5, 1), generator=generator)
    else:
        chosen = (torch.rand(ids.shape, generator=generator) < 0.3) & (mask == 1)
        labels = torch.where(chosen, torch.randint(5, VOCABULARY, ids.shape, generator=generator), IGNORED)
    return EncoderBatch(
        source=ids, source_mask=mask, decoder_input=ids[:, :0], labels=labels, indices=torch.arange(len(ids))
    )


def some_model(size: SizeSpec) -> torch.nn.Module:
    """Return a model whose classes' rows and biases are not small: an error in them must show."""
    model = build(size, vocab_size=VOCABULARY, seed=0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in learnt_parameters(model).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def plain_gradients(model: torch.nn.Module, batch: EncoderBatch) -> tuple[float, dict[str, torch.Tensor]]:
    own = copy.deepcopy(model).train()
    logits = own(input_ids=batch.source, attention_mask=batch.source_mask).logits
    loss = functional.cross_entropy(logits.flatten(0, -2), batch.labels.flatten(), ignore_index=IGNORED)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in learnt_parameters(own).items()}


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("kind", [ReferenceEncoder, FusedEncoder])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.key)
def test_losses_and_gradients_are_those_of_transformers_modules(size: SizeSpec, kind: type, padded: bool) -> None:
    model, batch = some_model(size), some_batch(size, padded=padded)
    expected, gradients = plain_gradients(model, batch)
    forward = kind(copy.deepcopy(model).train(), precision="fp32")
    loss = CrossEntropy(label_smoothing=0.0)(forward, batch, step=0)
    loss.backward()
    forward.weights.gather_gradient()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    for name, found in forward.weights.by_name(forward.weights.gradient).items():
        torch.testing.assert_close(found.view_as(gradients[name]), gradients[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("size", [SIZE, CLASSIFIER], ids=lambda size: size.key)
def test_bf16_is_near_fp32(size: SizeSpec) -> None:
    model, batch = some_model(size), some_batch(size)
    losses = [
        CrossEntropy(label_smoothing=0.0)(FusedEncoder(copy.deepcopy(model), precision=precision), batch, step=0).item()
        for precision in ("fp32", "bf16")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]


def test_on_a_cpu_encoders_are_fused_unless_their_shape_is_another() -> None:
    model = some_model(SIZE)
    assert isinstance(forward_of(model, precision="fp32"), FusedEncoder)
    model.config.attention_probs_dropout_prob = 0.1
    assert isinstance(forward_of(model, precision="fp32"), ReferenceEncoder)


@pytest.mark.parametrize("size", [SIZE, CLASSIFIER], ids=lambda size: size.key)
def test_dropout_changes_training_alone(size: SizeSpec) -> None:
    model, batch = some_model(size), some_batch(size)
    set_dropout(model, 0.3)
    forward = FusedEncoder(model, precision="fp32")

    def loss() -> float:
        return CrossEntropy(label_smoothing=0.0)(forward, batch, step=0).item()

    torch.manual_seed(0)
    assert loss() != loss()
    model.eval()
    assert loss() == loss()


def test_a_classifier_keeps_the_encoder_and_draws_a_head() -> None:
    pretrained = some_model(SIZE)
    models = [
        classifier_of(pretrained, CLASSIFIER, vocab_size=VOCABULARY, dropout=0.0, seed=seed) for seed in (0, 0, 1)
    ]
    kept, heads = pretrained.roberta_prelayernorm.state_dict(), [model.classifier.state_dict() for model in models]
    for model in models:
        assert all(torch.equal(value, kept[name]) for name, value in model.roberta_prelayernorm.state_dict().items())
    assert torch.equal(heads[0]["dense.weight"], heads[1]["dense.weight"])
    assert not torch.equal(heads[0]["dense.weight"], heads[2]["dense.weight"])
