"""The chunked loss against PyTorch's own, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from pipeline.corpora.batches import Batch
from pipeline.models.seq2seq import build
from pipeline.size import SizeSpec
from pipeline.training import objectives
from pipeline.training.forward import ReferenceForward
from pipeline.training.objectives import CrossEntropy, HeadLoss, smoothed_cross_entropy


def _batch(rows: int, vocabulary: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(4, vocabulary, (rows, 6), generator=generator)
    target = torch.randint(4, vocabulary, (rows, 5), generator=generator)
    labels = target.clone()
    labels[::2, 3:] = -100
    return Batch(
        source=source,
        source_mask=torch.ones_like(source),
        decoder_input=torch.cat([torch.zeros(rows, 1, dtype=torch.int64), target[:, :-1]], 1),
        labels=labels,
        indices=torch.arange(rows),
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("positions", [1, 7, 16, 19])
def test_equals_torch_in_value_and_gradients(smoothing: float, positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "_CHUNK_LOGITS", 8 * 30)  # chunks of 8 rows
    torch.manual_seed(0)
    hidden = torch.randn(positions + 4, 8, requires_grad=True)
    index = torch.randperm(positions + 4)[:positions]
    weight = torch.randn(30, 8, requires_grad=True)
    labels = torch.randint(0, 30, (positions,))
    ours = HeadLoss.apply(hidden, weight, index, smoothed_cross_entropy(labels, smoothing)) * 0.37
    ours_gradients = torch.autograd.grad(ours, (hidden, weight))
    theirs = cross_entropy(hidden[index] @ weight.t(), labels, label_smoothing=smoothing, reduction="sum") * 0.37
    theirs_gradients = torch.autograd.grad(theirs, (hidden, weight))
    assert torch.allclose(ours, theirs, rtol=1e-5)
    for a, b in zip(ours_gradients, theirs_gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_models_loss_and_gradients_equal_the_reference_and_skip_padding() -> None:
    model = build(SizeSpec(d_model=16, num_layers=2, num_heads=2), vocab_size=40, seed=0).train()
    batch = _batch(4, 40)
    loss = CrossEntropy(label_smoothing=0.1)(ReferenceForward(model, precision="fp32"), batch, step=0)
    loss.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    logits = model(
        input_ids=batch.source, attention_mask=batch.source_mask, decoder_input_ids=batch.decoder_input, use_cache=False
    ).logits
    reference = cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), label_smoothing=0.1, ignore_index=-100)
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        assert torch.allclose(ours[name], parameter.grad, atol=1e-5), name


def test_bf16_stays_near_fp32() -> None:
    model = build(SizeSpec(d_model=16, num_layers=1, num_heads=2), vocab_size=40, seed=0).train()
    batch = _batch(4, 40)
    exact, rough = (
        CrossEntropy(label_smoothing=0.1)(ReferenceForward(model, precision=precision), batch, step=0)
        for precision in ("fp32", "bf16")
    )
    assert rough.item() == pytest.approx(exact.item(), rel=0.02)
