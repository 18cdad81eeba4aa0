"""The loss of every sentence or block: what BLEU is noise about, a model's test loss a token says plainly."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipeline.corpora.batches import IGNORED
from pipeline.corpora.encoder_splits import LabelledSplit
from pipeline.corpora.streams import ordered_batches
from pipeline.evaluation.classification import class_logits, class_losses
from pipeline.evaluation.full_precision import full_precision
from pipeline.models.architectures import is_encoder
from pipeline.progress import progress

if TYPE_CHECKING:
    from pipeline.corpora.batches import Batch
    from pipeline.corpora.prepared import AnySplit, PreparedCorpus

CHUNK_POSITIONS = 512


class _TokenLosses:
    """Cross-entropy a position in fp32, through one buffer of logits (CHUNK_POSITIONS, V) that every chunk reuses.

    A fresh tensor of that size is mapped and faulted anew by the allocator each time, which costs more than filling it.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight.t()
        self.buffer = torch.empty(CHUNK_POSITIONS, weight.shape[0], dtype=torch.float32, device=weight.device)

    def __call__(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the negative log-likelihood (N,) of labels (N,), in nats, from states (N, d)."""
        losses = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(labels), CHUNK_POSITIONS):
            rows = slice(start, min(start + CHUNK_POSITIONS, len(labels)))
            logits = self.buffer[: rows.stop - rows.start]
            torch.mm(hidden[rows], self.weight, out=logits)
            target = logits.gather(1, labels[rows].unsqueeze(1)).squeeze(1)
            largest = logits.amax(dim=1, keepdim=True)
            losses[rows] = logits.sub_(largest).exp_().sum(dim=1).log_() + largest.squeeze(1) - target
        return losses


def _scored_states(model: Any, batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the states (N, d) that the vocabulary's rows score, of all labels (B, T) that are kept, and where they are (B, T)."""
    source, mask, labels = (part.to(device) for part in (batch.source, batch.source_mask, batch.labels))
    kept = labels != IGNORED
    if is_encoder(model.config):
        hidden = model.roberta_prelayernorm(input_ids=source, attention_mask=mask)[0]
        head = model.lm_head  # of the scored positions alone, and without logits: they come in chunks
        return head.layer_norm(functional.gelu(head.dense(hidden[kept]))), kept
    decoder_input = batch.decoder_input.to(device)
    hidden = model.model(input_ids=source, attention_mask=mask, decoder_input_ids=decoder_input, use_cache=False)[0]
    return hidden[kept], kept


def sentence_losses(
    model: Any, split: AnySplit, *, batch_tokens: int = 4000
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return each entry's negative log-likelihood (n,), in nats, and its count of scored tokens (n,), in the split's order.

    Of pairs every target token and </s> counts, padding does not. Of blocks of text those tokens count that the split's
    fixed masks score, given the rest. Of labelled sentences the class counts, as one token. No label smoothing, no
    dropout, fp32 whatever the training precision was; sums are in float64. The model's training mode is left as it was.
    ValueError on a model that is not fp32.
    """
    if isinstance(split, LabelledSplit):
        of_classes = class_losses(class_logits(model, split, batch_tokens=batch_tokens), split.labels)
        return of_classes, np.ones(len(split), dtype=np.int64)
    nll = np.zeros(len(split), dtype=np.float64)
    tokens = np.zeros(len(split), dtype=np.int64)
    with full_precision(model) as device:
        table = model.get_input_embeddings() if is_encoder(model.config) else model.lm_head
        token_losses = _TokenLosses(table.weight)
        for batch in progress(ordered_batches(split, batch_tokens=batch_tokens), desc="losses", unit="batch"):
            states, kept = _scored_states(model, batch, device)
            labels = batch.labels.to(device)
            losses = torch.zeros(labels.shape, dtype=torch.float64, device=device)
            losses[kept] = token_losses(states, labels[kept]).double()
            indices = batch.indices.numpy()
            nll[indices] = losses.sum(dim=1).cpu().numpy()
            tokens[indices] = kept.sum(dim=1).cpu().numpy()
    return nll, tokens


def validation_loss(corpus: PreparedCorpus, *, batch_tokens: int = 4000) -> Callable[[Any], float]:
    """Return a function from a model to its mean loss a scored token or class, in nats, on the validation split."""
    split = corpus.split("valid")

    def loss(model: Any) -> float:
        nll, tokens = sentence_losses(model, split, batch_tokens=batch_tokens)
        return float(nll.sum() / tokens.sum())

    return loss
