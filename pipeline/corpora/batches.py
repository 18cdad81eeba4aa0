"""Batches of sentence pairs under a limit of padded tokens; their order is a function of seed, epoch and position.

`pipeline.corpora.streams` has the same for any split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.corpora.masking import IGNORED
from pipeline.corpora.prepared import Split
from pipeline.corpora.token_array import TokenArray
from pipeline.corpora.tokenizer import EOS_ID, PAD_ID
from pipeline.errors import StudyError

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Padded pairs: B sentences, S source and T target positions, special tokens counted; all tensors are int64."""

    source: torch.Tensor  # (B, S): tokens, </s>, padding
    source_mask: torch.Tensor  # (B, S): 1 on tokens
    decoder_input: torch.Tensor  # (B, T): the split's first token (<s>), tokens, padding
    labels: torch.Tensor  # (B, T): tokens, </s>, then -100
    indices: torch.Tensor  # (B,): positions in the split

    @property
    def source_tokens(self) -> int:
        """Source positions that are not padding, </s> counted."""
        return int(self.source_mask.sum())

    @property
    def target_tokens(self) -> int:
        """Target positions that are scored, </s> counted."""
        return int((self.labels != IGNORED).sum())

    @property
    def trained_tokens(self) -> int:
        """Tokens that a ledger counts for training on the batch: the targets'."""
        return self.target_tokens

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`; itself when it is there already."""
        if self.source.device == device:
            return self
        return type(self)(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def split(self, parts: int) -> list[Batch]:
        """Return the rows, in order, in `parts` batches of nearly equal numbers of rows, or fewer where rows are fewer.

        Each is as wide as its own longest sentences, as if it had been padded alone.
        """
        parts = min(parts, len(self))
        if parts <= 1:
            return [self]
        return [self._rows(rows) for rows in torch.arange(len(self)).tensor_split(parts)]

    def _rows(self, rows: torch.Tensor) -> Batch:
        some = slice(int(rows[0]), int(rows[-1]) + 1)
        source_length = int(self.source_mask[some].sum(1).max())
        target_length = int((self.labels[some] != IGNORED).sum(1).max())
        return Batch(
            source=self.source[some, :source_length],
            source_mask=self.source_mask[some, :source_length],
            decoder_input=self.decoder_input[some, :target_length],
            labels=self.labels[some, :target_length],
            indices=self.indices[some],
        )

    def within(self, padded_tokens: int | None) -> list[Batch]:
        """Return the rows in batches whose longest side x rows is at most `padded_tokens`; a longer sentence is alone."""
        if padded_tokens is None:
            return [self]
        rows_at_once = max(1, padded_tokens // max(self.source.shape[1], self.labels.shape[1]))
        return self.split(-(-len(self) // rows_at_once))


def _padded(tokens: TokenArray, indices: Ints) -> tuple[Ints, NDArray[np.bool_], Ints]:
    """Return the ids (B, L + 1) with padding behind them, which of them are tokens (B, L + 1), and the lengths (B,)."""
    lengths = tokens.lengths[indices]
    columns = np.arange(int(lengths.max()) + 1)
    real = columns < lengths[:, None]
    positions = np.minimum(tokens.offsets[indices][:, None] + columns, max(len(tokens.ids) - 1, 0))
    ids = tokens.ids[positions].astype(np.int64) if len(tokens.ids) else np.zeros(real.shape, dtype=np.int64)
    return np.where(real, ids, PAD_ID), real, lengths


def _collate(source: TokenArray, target: TokenArray, indices: Ints, start_id: int) -> Batch:
    source_ids, source_mask, source_lengths = _padded(source, indices)
    target_ids, target_mask, target_lengths = _padded(target, indices)
    rows = np.arange(len(indices))
    source_ids[rows, source_lengths] = EOS_ID
    source_mask[rows, source_lengths] = True
    labels = np.where(target_mask, target_ids, IGNORED)
    labels[rows, target_lengths] = EOS_ID
    decoder_input = np.empty_like(target_ids)
    decoder_input[:, 0] = start_id
    decoder_input[:, 1:] = target_ids[:, :-1]
    return Batch(
        source=torch.from_numpy(source_ids),
        source_mask=torch.from_numpy(source_mask.astype(np.int64)),
        decoder_input=torch.from_numpy(decoder_input),
        labels=torch.from_numpy(labels),
        indices=torch.from_numpy(indices.astype(np.int64)),
    )


def collate(split: Split, indices: Ints) -> Batch:
    """Return the pairs at `indices` (B,) as one padded batch."""
    return _collate(split.source, split.target, np.asarray(indices, dtype=np.int64), split.start_id)


def runs_within(longest: Ints, batch_tokens: int) -> list[slice]:
    """Cut ascending lengths into runs whose longest x count is at most `batch_tokens`; a longer sentence is alone."""
    runs, start = [], 0
    while start < len(longest):
        window = longest[start : start + max(1, batch_tokens // int(longest[start]))]
        fits = int(np.count_nonzero(window * np.arange(1, len(window) + 1) <= batch_tokens))
        end = start + max(1, fits)
        runs.append(slice(start, end))
        start = end
    return runs


def plan_lengths(
    longest: Ints, *, batch_tokens: int, rng: np.random.Generator, ties: Ints | None = None
) -> list[NDArray[np.int64]]:
    """Return every index once, in batches of entries of like length, in random order.

    `longest` (n,): padded positions of each entry, special tokens counted; in a batch their maximum times their number is
    at most `batch_tokens`. Among entries of equal length those of like `ties` (n,) go together. StudyError when one
    entry alone exceeds that.
    """
    if len(longest) and longest.max() > batch_tokens:
        raise StudyError(
            f"batch_tokens is {batch_tokens}, but the longest sentence has {longest.max()} tokens; "
            "raise training.batch_tokens or lower corpus.max_tokens"
        )
    shuffled = rng.permutation(len(longest))
    # ties keep the shuffled order: which sentences share a batch changes every epoch
    keys = (longest[shuffled],) if ties is None else (ties[shuffled], longest[shuffled])
    order = shuffled[np.lexsort(keys)]
    runs = runs_within(longest[order], batch_tokens)
    return [order[runs[i]] for i in rng.permutation(len(runs)).tolist()]


def plan_batches(
    source_lengths: Ints, target_lengths: Ints, *, batch_tokens: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return every pair's index once, in batches of sentences of like length, in random order.

    Lengths are without special tokens; a batch's longest side, one special token added, times its sentences is at most
    `batch_tokens`. StudyError when one sentence alone exceeds that.
    """
    longest = np.maximum(source_lengths, target_lengths) + 1
    return plan_lengths(longest, batch_tokens=batch_tokens, rng=rng, ties=np.minimum(source_lengths, target_lengths))


class BatchStream(Iterator[Batch]):
    """Endless batches of pairs; each epoch has every pair once, in an order that depends on seed and epoch alone.

    `targets` replaces the split's targets, sentence by sentence (a teacher's translations, say). Subclasses are the
    streams of other splits.
    """

    def __init__(self, split: Split, *, batch_tokens: int, seed: int, targets: TokenArray | None = None) -> None:
        self.source = split.source
        self.target = split.target if targets is None else targets
        if len(self.target) != len(self.source):
            raise StudyError(
                f"{len(self.target)} targets for the {len(self.source)} sentences of {split.name}; they must be aligned"
            )
        self.start_id = split.start_id
        longest = np.maximum(self.source.lengths, self.target.lengths) + 1
        ties = np.minimum(self.source.lengths, self.target.lengths)
        self._begin(split.name, longest, batch_tokens=batch_tokens, seed=seed, ties=ties)

    def _begin(self, name: str, longest: Ints, *, batch_tokens: int, seed: int, ties: Ints | None = None) -> None:
        if not len(longest):
            raise StudyError(f"the split {name} is empty; prepare a corpus with more text")
        self._longest, self._ties = longest, ties
        self.batch_tokens = batch_tokens
        self.seed = seed
        self._start(0)

    def _start(self, epoch: int) -> None:
        rng = np.random.default_rng([self.seed, epoch])
        self._plan = plan_lengths(self._longest, batch_tokens=self.batch_tokens, rng=rng, ties=self._ties)
        self._epoch, self._position = epoch, 0

    def _batch(self, indices: Ints) -> Batch:
        return _collate(self.source, self.target, indices, self.start_id)

    def __next__(self) -> Batch:
        if self._position == len(self._plan):
            self._start(self._epoch + 1)
        batch = self._batch(self._plan[self._position])
        self._position += 1
        return batch

    def state(self) -> dict[str, int]:
        """Return where the stream stands: the epoch, and how many of its batches were given."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state(self, state: dict[str, int]) -> None:
        """Go on exactly where `state` was taken, on the same split, seed and batch_tokens."""
        self._start(state["epoch"])
        if not 0 <= state["position"] <= len(self._plan):
            raise StudyError(
                f"the checkpoint stands at batch {state['position']} of an epoch of {len(self._plan)}: the corpus or "
                "batch_tokens changed; delete the checkpoint and start again"
            )
        self._position = state["position"]


def ordered_batches(split: Split, *, batch_tokens: int) -> list[Batch]:
    """Return batches that cover each sentence once, shortest first; a sentence longer than `batch_tokens` is alone."""
    order = np.argsort(split.padded_lengths, kind="stable")
    return [collate(split, order[run]) for run in runs_within(split.padded_lengths[order], batch_tokens)]
