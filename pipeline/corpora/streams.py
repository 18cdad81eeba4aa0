"""Batches of any split: pairs for translation, blocks of text and labelled sentences for encoders."""

from __future__ import annotations

import numpy as np

from pipeline.corpora import batches
from pipeline.corpora.batches import Batch, BatchStream, Ints, runs_within
from pipeline.corpora.encoder_batches import LabelledStream, TextStream, collate_sentences, collate_text
from pipeline.corpora.encoder_splits import LabelledSplit, TextSplit
from pipeline.corpora.prepared import AnySplit
from pipeline.corpora.token_array import TokenArray
from pipeline.errors import StudyError


def open_stream(split: AnySplit, *, batch_tokens: int, seed: int, targets: TokenArray | None = None) -> BatchStream:
    """Return endless batches of a split in an order that depends on `seed` and the epoch alone.

    `targets` replaces the targets of pairs, sentence by sentence. StudyError on an empty split, on one that does not
    fit `batch_tokens`, and on targets for a split that has none.
    """
    if not isinstance(split, TextSplit | LabelledSplit):
        return BatchStream(split, batch_tokens=batch_tokens, seed=seed, targets=targets)
    if targets is not None:
        raise StudyError(f"{split.directory}: targets are for sentence pairs; this corpus has none")
    if isinstance(split, TextSplit):
        return TextStream(split, batch_tokens=batch_tokens, seed=seed)
    return LabelledStream(split, batch_tokens=batch_tokens, seed=seed)


def collate(split: AnySplit, indices: Ints) -> Batch:
    """Return the entries at `indices` (B,) as one padded batch; text with the masks that are fixed for each block."""
    if isinstance(split, TextSplit):
        return collate_text(split, indices)
    if isinstance(split, LabelledSplit):
        return collate_sentences(split, indices)
    return batches.collate(split, indices)


def ordered_batches(split: AnySplit, *, batch_tokens: int) -> list[Batch]:
    """Return batches that cover each entry once, shortest first; an entry longer than `batch_tokens` is alone."""
    order = np.argsort(split.padded_lengths, kind="stable")
    return [collate(split, order[run]) for run in runs_within(split.padded_lengths[order], batch_tokens)]
