"""What a classifier says of labelled sentences: logits, losses, and which classes are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.corpora.streams import ordered_batches
from pipeline.evaluation.full_precision import full_precision
from pipeline.progress import progress

if TYPE_CHECKING:
    from pipeline.corpora.encoder_splits import LabelledSplit

Floats = NDArray[np.float64]


def class_logits(model: Any, split: LabelledSplit, *, batch_tokens: int = 4000) -> NDArray[np.float32]:
    """Return the logits (n, C) of every sentence's classes, in the split's order, computed as `full_precision` does."""
    logits = np.zeros((len(split), model.config.num_labels), dtype=np.float32)
    with full_precision(model) as device:
        for batch in progress(ordered_batches(split, batch_tokens=batch_tokens), desc="classes", unit="batch"):
            answer = model(input_ids=batch.source.to(device), attention_mask=batch.source_mask.to(device))
            logits[batch.indices.numpy()] = answer.logits.cpu().numpy()
    return logits


def class_losses(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Floats:
    """Return the negative log-likelihoods (n,), in nats, of classes (n,) under logits (n, C), in float64."""
    wide = logits.astype(np.float64)
    largest = wide.max(axis=1)
    total = np.log(np.exp(wide - largest[:, None]).sum(axis=1)) + largest
    return np.asarray(total - wide[np.arange(len(wide)), labels])


def predicted(logits: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return the class (n,) of the largest of logits (n, C); of equal ones the first."""
    return np.asarray(logits.argmax(axis=1), dtype=np.int64)
