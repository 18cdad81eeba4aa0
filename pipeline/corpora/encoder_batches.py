"""Batches for encoders: masked blocks of text, and sentences with their class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.corpora.batches import Batch, BatchStream, Ints
from pipeline.corpora.encoder_splits import ADDED, LabelledSplit, TextSplit
from pipeline.corpora.masking import IGNORED
from pipeline.corpora.token_array import TokenArray
from pipeline.corpora.tokenizer import BOS_ID, EOS_ID, PAD_ID
from pipeline.errors import StudyError


@dataclass(frozen=True, kw_only=True)
class EncoderBatch(Batch):
    """Padded sequences of an encoder: B of them, S positions, <s> and </s> counted; all tensors are int64.

    `source` (B, S): <s>, tokens (text: masked), </s>, padding. `source_mask` (B, S): 1 up to </s>. `labels`: of text
    (B, S), the token where it is scored, else -100; of sentences (B, 1), the class. `decoder_input` (B, 0): nothing.
    `indices` (B,): positions in the split.
    """

    @property
    def trained_tokens(self) -> int:
        """Source tokens: an encoder learns from every position that it reads, not only from those scored."""
        return self.source_tokens

    def _rows(self, rows: torch.Tensor) -> EncoderBatch:
        some = slice(int(rows[0]), int(rows[-1]) + 1)
        length = int(self.source_mask[some].sum(1).max())
        return EncoderBatch(
            source=self.source[some, :length],
            source_mask=self.source_mask[some, :length],
            decoder_input=self.decoder_input[some],
            labels=self.labels[some, :length],  # a class stays: a sequence has two positions at least
            indices=self.indices[some],
        )


def _framed(tokens: TokenArray, indices: Ints) -> tuple[Ints, Ints]:
    """Return the ids (B, L + 2) between <s> and </s>, padding behind them, and which are no padding (B, L + 2)."""
    lengths = tokens.lengths[indices]
    columns = np.arange(int(lengths.max()) + ADDED)
    positions = np.clip(tokens.offsets[indices][:, None] + columns - 1, 0, max(len(tokens.ids) - 1, 0))
    ids = tokens.ids[positions].astype(np.int64) if len(tokens.ids) else np.zeros(positions.shape, dtype=np.int64)
    ids[columns > lengths[:, None] + 1] = PAD_ID
    ids[:, 0] = BOS_ID
    ids[np.arange(len(indices)), lengths + 1] = EOS_ID
    return ids, (columns < lengths[:, None] + ADDED).astype(np.int64)


def _batch(source: Ints, mask: Ints, labels: Ints, indices: Ints) -> EncoderBatch:
    return EncoderBatch(
        source=torch.from_numpy(source),
        source_mask=torch.from_numpy(mask),
        decoder_input=torch.zeros((len(indices), 0), dtype=torch.int64),
        labels=torch.from_numpy(labels),
        indices=torch.from_numpy(indices),
    )


def collate_text(split: TextSplit, indices: Ints) -> EncoderBatch:
    """Return the blocks at `indices` (B,) with the masks that are fixed for them: the same in any batch."""
    indices = np.asarray(indices, dtype=np.int64)
    ids, mask = _framed(split.blocks, indices)
    labels = np.full_like(ids, IGNORED)
    for row, (block, length) in enumerate(zip(indices.tolist(), mask.sum(axis=1).tolist(), strict=True)):
        seen = split.masking.fixed(ids[row, :length], split=split.name, block=block)
        ids[row, :length], labels[row, :length] = seen
    return _batch(ids, mask, labels, indices)


def collate_sentences(split: LabelledSplit, indices: Ints) -> EncoderBatch:
    """Return the sentences at `indices` (B,) with their classes as one padded batch."""
    indices = np.asarray(indices, dtype=np.int64)
    ids, mask = _framed(split.sentences, indices)
    return _batch(ids, mask, split.labels[indices][:, None].astype(np.int64), indices)


class TextStream(BatchStream):
    """Endless batches of blocks; masks are drawn from (seed, epoch, position), so that a resumed stream has the same."""

    def __init__(self, split: TextSplit, *, batch_tokens: int, seed: int) -> None:
        longest = int(split.padded_lengths.max(initial=0))
        if longest > batch_tokens:
            raise StudyError(
                f"batch_tokens is {batch_tokens}, but a block of text has {longest} tokens; "
                "raise training.batch_tokens or lower corpus.sequence_tokens"
            )
        self.split = split
        self._begin(split.name, split.padded_lengths, batch_tokens=batch_tokens, seed=seed)

    def _batch(self, indices: Ints) -> EncoderBatch:
        ids, mask = _framed(self.split.blocks, indices)
        # + 1: a seed that ends in 0 is the one without that 0, which orders the epoch
        rng = np.random.default_rng([self.seed, self._epoch, self._position + 1])
        seen, labels = self.split.masking.drawn(ids, rng)
        return _batch(seen, mask, labels, indices)


class LabelledStream(BatchStream):
    """Endless batches of sentences of like length with their classes."""

    def __init__(self, split: LabelledSplit, *, batch_tokens: int, seed: int) -> None:
        self.split = split
        self._begin(split.name, split.padded_lengths, batch_tokens=batch_tokens, seed=seed)

    def _batch(self, indices: Ints) -> EncoderBatch:
        return collate_sentences(self.split, indices)
