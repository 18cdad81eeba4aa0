"""The loss of every sentence: what BLEU is noise about, a model's test loss a token says plainly."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.corpora.batches import ordered_batches
from pipeline.progress import progress

if TYPE_CHECKING:
    from pipeline.corpora.prepared import PreparedCorpus, Split

CHUNK_POSITIONS = 512


class _TokenLosses:
    """Cross-entropy a position in fp32, through one buffer of logits (CHUNK_POSITIONS, V) that every chunk reuses.

    A fresh tensor of that size is mapped and faulted anew by the allocator each time, which costs more than filling it.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight.t()
        self.buffer = torch.empty(CHUNK_POSITIONS, weight.shape[0], dtype=torch.float32, device=weight.device)

    def __call__(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the negative log-likelihood (N,) of labels (N,), in nats, from decoder states (N, d)."""
        losses = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(labels), CHUNK_POSITIONS):
            rows = slice(start, min(start + CHUNK_POSITIONS, len(labels)))
            logits = self.buffer[: rows.stop - rows.start]
            torch.mm(hidden[rows], self.weight, out=logits)
            target = logits.gather(1, labels[rows].unsqueeze(1)).squeeze(1)
            largest = logits.amax(dim=1, keepdim=True)
            losses[rows] = logits.sub_(largest).exp_().sum(dim=1).log_() + largest.squeeze(1) - target
        return losses


def sentence_losses(
    model: Any, split: Split, *, batch_tokens: int = 4000
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return each target's negative log-likelihood (n,), in nats, and its token count (n,), in the split's order.

    Every target token and </s> counts; padding does not. No label smoothing, no dropout, fp32 whatever the training
    precision was; sums are in float64. The model's training mode is left as it was. ValueError on a model that is not
    fp32.
    """
    if model.lm_head.weight.dtype != torch.float32:
        raise ValueError(f"losses are measured in fp32, but the model is {model.lm_head.weight.dtype}")
    nll = np.zeros(len(split), dtype=np.float64)
    tokens = np.zeros(len(split), dtype=np.int64)
    device = model.lm_head.weight.device
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            token_losses = _TokenLosses(model.lm_head.weight)
            for batch in progress(ordered_batches(split, batch_tokens=batch_tokens), desc="losses", unit="batch"):
                labels = batch.labels.to(device)
                hidden = model.model(
                    input_ids=batch.source.to(device),
                    attention_mask=batch.source_mask.to(device),
                    decoder_input_ids=batch.decoder_input.to(device),
                    use_cache=False,
                )[0]
                kept = labels != -100
                losses = torch.zeros(labels.shape, dtype=torch.float64, device=device)
                losses[kept] = token_losses(hidden[kept], labels[kept]).double()
                indices = batch.indices.numpy()
                nll[indices] = losses.sum(dim=1).cpu().numpy()
                tokens[indices] = kept.sum(dim=1).cpu().numpy()
    finally:
        model.train(training)
    return nll, tokens


def validation_loss(corpus: PreparedCorpus, *, batch_tokens: int = 4000) -> Callable[[Any], float]:
    """Return a function from a model to its mean loss a target token, in nats, on the validation split."""
    split = corpus.split("valid")

    def loss(model: Any) -> float:
        nll, tokens = sentence_losses(model, split, batch_tokens=batch_tokens)
        return float(nll.sum() / tokens.sum())

    return loss
