"""Losses against float64 log-probabilities, in the split's order."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.corpora.prepared import Split, TokenArray
from pipeline.evaluation import losses
from pipeline.evaluation.losses import sentence_losses, validation_loss
from pipeline.models.seq2seq import BOS, EOS, build
from pipeline.size import SizeSpec


def token_array(rows: list[np.ndarray]) -> TokenArray:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return TokenArray(np.concatenate(rows).astype(np.uint16), offsets)


@pytest.fixture(scope="module")
def split() -> Split:
    generator = np.random.default_rng(0)
    sides = [
        [generator.integers(4, 200, size=length) for length in generator.integers(1, 12, size=40)] for _ in range(2)
    ]
    return Split(name="valid", source=token_array(sides[0]), target=token_array(sides[1]), directory=Path("unused"))


@pytest.fixture
def model():
    return build(SizeSpec(d_model=32, num_layers=1), vocab_size=200, dropout=0.3, seed=0).train()


def reference(model, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Losses sentence by sentence, unpadded, in float64, from the logits that the model itself returns."""
    model = model.eval().double()
    nll, tokens = [], []
    for source, target in zip(split.source, split.target, strict=True):
        labels = torch.tensor([[*target.tolist(), EOS]])
        with torch.inference_mode():
            logits = model(
                input_ids=torch.tensor([[*source.tolist(), EOS]]),
                decoder_input_ids=torch.tensor([[BOS, *target.tolist()]]),
            ).logits
        nll.append(-logits.log_softmax(-1).gather(2, labels.unsqueeze(2)).sum().item())
        tokens.append(labels.numel())
    model.float().train()
    return np.array(nll), np.array(tokens)


def test_losses_are_those_of_each_sentence_alone(model, split, monkeypatch) -> None:
    expected, counts = reference(model, split)
    for batch_tokens, chunk in ((4000, 512), (100, 512), (4000, 7), (1, 512)):
        monkeypatch.setattr(losses, "CHUNK_POSITIONS", chunk)
        nll, tokens = sentence_losses(model, split, batch_tokens=batch_tokens)
        assert nll.dtype == np.float64
        assert tokens.dtype == np.int64
        assert (tokens == counts).all()
        assert np.allclose(nll, expected, rtol=2e-6, atol=2e-5)


def test_dropout_is_off_and_training_goes_on(model, split) -> None:
    first, _ = sentence_losses(model, split)
    second, _ = sentence_losses(model, split)
    assert (first == second).all()
    assert model.training


def test_autocast_around_the_call_does_not_reach_in(model, split) -> None:
    plain, _ = sentence_losses(model, split)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = sentence_losses(model, split)
    assert (plain == inside).all()


def test_large_logits_do_not_overflow(model, split) -> None:
    with torch.no_grad():
        model.model.decoder.layer_norm.weight.mul_(1000)
    nll, _ = sentence_losses(model, split)
    assert np.isfinite(nll).all()
    expected, _ = reference(model, split)
    assert np.allclose(nll, expected, rtol=1e-4)


def test_a_model_in_another_precision_is_refused(model, split) -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        sentence_losses(model.bfloat16(), split)


def test_validation_loss_is_a_mean_over_tokens(model, split) -> None:
    corpus = SimpleNamespace(split={"valid": split}.__getitem__)
    nll, tokens = sentence_losses(model, split)
    assert validation_loss(corpus)(model) == pytest.approx(nll.sum() / tokens.sum(), abs=1e-12)
