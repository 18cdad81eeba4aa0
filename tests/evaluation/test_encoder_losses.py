"""Losses of encoders against float64 log-probabilities of each block or sentence alone, in the split's order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.corpora.streams import collate
from pipeline.evaluation import losses
from pipeline.evaluation.classification import class_logits, class_losses, predicted
from pipeline.evaluation.losses import sentence_losses, validation_loss
from tests.classifiers import encoder, encoder_size, labelled_split, text_split


@pytest.fixture
def masked_lm() -> Any:
    return encoder(encoder_size(num_labels=0), dropout=0.3).train()


@pytest.fixture
def classifier() -> Any:
    return encoder(dropout=0.3).train()


def alone(model: Any, split: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return losses and counts by transformers' own forward, one block or sentence at a time, in float64."""
    model = model.eval().double()
    nll, tokens = [], []
    for number in range(len(split)):
        batch = collate(split, np.array([number]))
        with torch.no_grad():
            scores = model(input_ids=batch.source).logits.log_softmax(-1)
        labels = batch.labels[0]
        scores = scores[0] if scores.ndim == 3 else scores
        kept = labels != -100
        nll.append(-float(scores[kept].gather(1, labels[kept].unsqueeze(1)).sum()))
        tokens.append(int(kept.sum()))
    model.float().train()
    return np.array(nll), np.array(tokens)


def test_masked_losses_are_those_of_each_block_alone(masked_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    split = text_split()
    expected, counts = alone(masked_lm, split)
    assert counts.min() >= 1
    assert counts.max() > 2
    for batch_tokens, chunk in ((4000, 512), (100, 512), (4000, 7), (1, 512)):
        monkeypatch.setattr(losses, "CHUNK_POSITIONS", chunk)
        nll, tokens = sentence_losses(masked_lm, split, batch_tokens=batch_tokens)
        assert (tokens == counts).all()
        assert np.allclose(nll, expected, rtol=2e-6, atol=2e-5)
    assert masked_lm.training


def test_class_losses_are_those_of_each_sentence_alone(classifier: Any) -> None:
    split = labelled_split()
    expected, counts = alone(classifier, split)
    for batch_tokens in (4000, 100, 1):
        nll, tokens = sentence_losses(classifier, split, batch_tokens=batch_tokens)
        assert (tokens == counts).all()
        assert (tokens == 1).all()
        assert nll.dtype == np.float64
        assert np.allclose(nll, expected, rtol=2e-6, atol=2e-5)
    assert classifier.training


@pytest.mark.parametrize("kind", ["masked_lm", "classifier"])
def test_autocast_and_dropout_do_not_reach_in(kind: str, request: pytest.FixtureRequest) -> None:
    model, split = request.getfixturevalue(kind), text_split() if kind == "masked_lm" else labelled_split()
    first, _ = sentence_losses(model, split)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        second, _ = sentence_losses(model, split)
    assert (first == second).all()
    with pytest.raises(ValueError, match="bfloat16"):
        sentence_losses(model.bfloat16(), split)


def test_validation_loss_is_a_mean_over_scored_tokens(masked_lm: Any, classifier: Any) -> None:
    for model, split in ((masked_lm, text_split()), (classifier, labelled_split())):
        nll, tokens = sentence_losses(model, split)
        corpus: Any = SimpleNamespace(split={"valid": split}.__getitem__)
        assert validation_loss(corpus)(model) == pytest.approx(nll.sum() / tokens.sum(), abs=1e-12)


def test_predictions_are_the_classes_of_largest_logits(classifier: Any) -> None:
    split = labelled_split()
    logits = class_logits(classifier, split)
    classes = predicted(logits)
    assert set(classes.tolist()) == {0, 1, 2}, "a random classifier that always says one class tests nothing"
    likeliest = np.stack([class_losses(logits, np.full(len(split), number)) for number in range(3)]).argmin(axis=0)
    assert (classes == likeliest).all()
    assert predicted(np.array([[1.0, 1.0, 0.0]])).tolist() == [0]


def test_large_class_logits_do_not_overflow() -> None:
    logits = np.array([[1e4, 0.0], [-1e4, 1e4]], dtype=np.float32)
    assert class_losses(logits, np.array([0, 0])).tolist() == [0.0, 2e4]
