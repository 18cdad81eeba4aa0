"""The fused sublayers against transformers' own modules: losses, gradients, training curves."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from pipeline.corpora.batches import Batch
from pipeline.models.seq2seq import build
from pipeline.size import SizeSpec
from pipeline.training import sublayers
from pipeline.training.forward import Forward, FusedForward, ReferenceForward
from pipeline.training.objectives import CrossEntropy
from pipeline.training.weights import FlatWeights, Leaf

VOCABULARY = 60
SIZES = [
    SizeSpec(d_model=32, num_layers=2, num_heads=2),
    SizeSpec(d_model=24, num_layers=1, num_heads=3, ffn_dim=40),
    SizeSpec(d_model=64, num_layers=3, num_heads=1, ffn_dim=16),
    SizeSpec(d_model=32, num_layers=2, num_heads=3, head_dim=8),  # heads pruned: narrower together than the model
]


def _batch(*, padded: bool, seed: int = 0, rows: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(4, VOCABULARY, (rows, 7), generator=generator)
    target = torch.randint(4, VOCABULARY, (rows, 6), generator=generator)
    mask, labels = torch.ones_like(source), target.clone()
    if padded:
        mask[1, 4:], mask[3, 1:] = 0, 0
        source[mask == 0] = 1
        labels[2, 3:] = -100
    decoder_input = torch.cat([torch.zeros(rows, 1, dtype=torch.int64), target[:, :-1]], 1)
    return Batch(
        source=source, source_mask=mask, decoder_input=decoder_input, labels=labels, indices=torch.arange(rows)
    )


def _forwards(size: SizeSpec, precision: str, *, dropout: float = 0.0) -> Iterator[Forward]:
    for kind in (ReferenceForward, FusedForward):
        model = build(size, vocab_size=VOCABULARY, seed=0, dropout=dropout).train()
        with torch.no_grad():
            for (
                name,
                parameter,
            ) in model.named_parameters():  # biases and norms start at 0 and 1: that would hide faults
                if parameter.ndim == 1:
                    parameter.add_(
                        0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                    )
        yield kind(model, precision=precision)


def _loss_and_gradient(forward: Forward, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    loss = CrossEntropy(label_smoothing=0.1)(forward, batch, step=0)
    loss.backward()
    forward.weights.gather_gradient()
    return loss.item(), forward.weights.by_name(forward.weights.gradient)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.key)
def test_in_fp32_losses_and_gradients_equal_the_reference(size: SizeSpec, padded: bool) -> None:
    (expected, reference), (loss, gradient) = (
        _loss_and_gradient(forward, _batch(padded=padded)) for forward in _forwards(size, "fp32")
    )
    assert loss == pytest.approx(expected, rel=1e-5)
    assert gradient.keys() == reference.keys()
    largest = max(part.abs().max().item() for part in reference.values())
    for name, part in reference.items():
        assert torch.allclose(gradient[name], part, rtol=1e-3, atol=1e-5 * largest), name


def test_in_bf16_the_gradient_points_where_the_exact_one_does() -> None:
    (_, exact), _ = (_loss_and_gradient(f, _batch(padded=True)) for f in _forwards(SIZES[0], "fp32"))
    both = [_loss_and_gradient(forward, _batch(padded=True))[1] for forward in _forwards(SIZES[0], "bf16")]
    flat = torch.cat([part.flatten() for part in exact.values()])
    cosines = [
        torch.cosine_similarity(flat, torch.cat([gradient[name].flatten() for name in exact]), dim=0)
        for gradient in both
    ]
    assert cosines[1] > 0.999
    assert cosines[1] > cosines[0] - 0.0005  # no rougher than autocast


@pytest.mark.parametrize("size", [SIZES[0], SIZES[-1]], ids=lambda size: size.key)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_curve_follows_the_references(precision: str, size: SizeSpec) -> None:
    ends = []
    for forward in _forwards(size, precision):
        optimizer = forward.weights.adamw(learning_rate=3e-3, weight_decay=0.01)
        for step in range(30):
            loss = CrossEntropy(label_smoothing=0.1)(forward, _batch(padded=True, seed=step % 3), step=step)
            loss.backward()
            forward.weights.gather_gradient()
            forward.weights.clip(1.0)
            optimizer.step()
            forward.weights.refresh()
        ends.append(loss.item())
    assert ends[0] < 3
    assert ends[1] == pytest.approx(ends[0], rel=1e-3 if precision == "fp32" else 0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.7])
def test_dropout_drops_its_share_keeps_the_mean_and_stops_the_same_gradients(
    probability: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    count = 40_000
    ones = torch.ones(200, 200, dtype=dtype)
    out, kept = sublayers._add_residual(torch.zeros(200, 200), ones, probability)
    assert kept is not None
    deviation = math.sqrt(probability * (1 - probability) / count)
    assert kept.float().mean().item() == pytest.approx(1 - probability, abs=4 * deviation)
    assert out.mean().item() == pytest.approx(1, abs=5 * deviation / (1 - probability))
    gradient = sublayers._residual_gradient(torch.full((200, 200), 2.0), kept, probability, dtype)
    assert torch.allclose(gradient.float(), 2 * out, rtol=0.01)


def test_attention_survives_a_hidden_key_far_above_the_seen_ones() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 8).unbind(0)
    k[:, 3] = 300 * q[:, 0]  # the first query would look at nothing but the last key, which is hidden from it
    mask = torch.ones(4, 4).tril_()
    out, weights, sums = sublayers._attend(q, k, v, mask)
    expected = torch.softmax((q @ k.transpose(1, 2)).masked_fill(mask == 0, float("-inf")), -1)
    assert torch.allclose(weights / sums, expected, atol=1e-6)
    assert torch.allclose(out, expected @ v, atol=1e-5)


def test_dropout_is_drawn_anew_in_training_and_absent_in_evaluation() -> None:
    size = SizeSpec(d_model=32, num_layers=1)
    dropped, kept = [], []
    for dropout, losses in ((0.0, kept), (0.2, dropped)):
        _, forward = _forwards(size, "bf16", dropout=dropout)
        torch.manual_seed(1)
        losses += [forward.states(_batch(padded=False)).float() for _ in range(2)]
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(dropped[0], dropped[1])
    _, forward = _forwards(size, "bf16", dropout=0.2)
    forward.model.eval()
    assert torch.equal(forward.states(_batch(padded=False)).float(), kept[0])


def test_the_gradient_under_dropout_is_that_of_the_masked_network() -> None:
    """A central difference with the same random numbers, in a direction of random weights."""
    _, forward = _forwards(SIZES[1], "fp32", dropout=0.3)
    batch, weights = _batch(padded=True), forward.weights

    def loss() -> torch.Tensor:
        torch.manual_seed(5)
        weights.refresh()
        return CrossEntropy(label_smoothing=0.0)(forward, batch, step=0)

    loss().backward()
    weights.gather_gradient()
    direction = torch.randn(weights.master.shape, generator=torch.Generator().manual_seed(0))
    expected = float(weights.gradient @ direction)
    ends = []
    for sign in (1, -1):
        weights.master.add_(direction, alpha=sign * 1e-3)
        ends.append(loss().item())
        weights.master.sub_(direction, alpha=sign * 1e-3)
    assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(expected, rel=0.02, abs=0.02)


def test_what_the_sublayers_do_not_know_is_refused() -> None:
    model = build(SIZES[0], vocab_size=VOCABULARY, seed=0)
    model.config.activation_function = "gelu"
    with pytest.raises(ValueError, match="ReLU"):
        FusedForward(model, precision="fp32")


def test_every_parameter_needs_exactly_one_leaf() -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="bias"):
        FlatWeights(model, [Leaf(("weight",))], dtype=torch.float32)
