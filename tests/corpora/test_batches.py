"""Batches: within the limit, each sentence once an epoch, the same again from seed and state."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora.batches import Batch, BatchStream, collate, ordered_batches, plan_batches
from pipeline.corpora.prepared import PreparedCorpus, Split, TokenArray
from pipeline.errors import StudyError

BATCH_TOKENS = 200


def array_of(rows: list[list[int]]) -> TokenArray:
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return TokenArray(np.array([i for row in rows for i in row], dtype=np.uint16), offsets)


def same(left: Batch, right: Batch) -> bool:
    names = ("source", "source_mask", "decoder_input", "labels", "indices")
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in names)


@pytest.fixture
def train(corpus: PreparedCorpus) -> Split:
    return corpus.split("train")


def epoch_of(stream: BatchStream) -> list[Batch]:
    batches: list[Batch] = []
    count = 0
    while count < len(stream.source):
        batches.append(next(stream))
        count += len(batches[-1])
    assert stream.state()["position"] == len(batches)
    return batches


def test_collate_places_every_token() -> None:
    split = Split(name="x", source=array_of([[7, 8], [9]]), target=array_of([[], [5, 6, 4]]), directory=Path())
    batch = collate(split, np.array([1, 0]))
    assert batch.source.tolist() == [[9, 2, 1], [7, 8, 2]]
    assert batch.source_mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.labels.tolist() == [[5, 6, 4, 2], [2, -100, -100, -100]]
    assert batch.decoder_input.tolist() == [[0, 5, 6, 4], [0, 1, 1, 1]]
    assert batch.indices.tolist() == [1, 0]
    assert (batch.source_tokens, batch.target_tokens, len(batch)) == (5, 5, 2)
    fields = (batch.source, batch.source_mask, batch.decoder_input, batch.labels, batch.indices)
    assert {tensor.dtype for tensor in fields} == {torch.int64}


def test_collate_of_empty_sentences_only() -> None:
    split = Split(name="x", source=array_of([[], []]), target=array_of([[], []]), directory=Path())
    assert collate(split, np.array([0, 1])).labels.tolist() == [[2], [2]]


def test_every_batch_is_within_the_limit_and_well_filled(train: Split) -> None:
    batches = epoch_of(BatchStream(train, batch_tokens=BATCH_TOKENS, seed=0))
    for batch in batches:
        assert max(batch.source.shape[1], batch.labels.shape[1]) * len(batch) <= BATCH_TOKENS
    filled = sum(batch.target_tokens for batch in batches) / sum(batch.labels.numel() for batch in batches)
    assert filled > 0.9


def test_each_sentence_once_an_epoch_in_another_order(train: Split) -> None:
    stream = BatchStream(train, batch_tokens=BATCH_TOKENS, seed=0)
    orders = [torch.cat([batch.indices for batch in epoch_of(stream)]) for _ in range(3)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(len(train)))
    assert not torch.equal(orders[0], orders[1])
    first, second = ({frozenset(b.indices.tolist()) for b in epoch_of(stream)} for _ in range(2))
    assert first != second, "other sentences meet in a batch"


def test_batches_hold_the_corpus(train: Split) -> None:
    batch = next(BatchStream(train, batch_tokens=BATCH_TOKENS, seed=1))
    for row, index in enumerate(batch.indices.tolist()):
        source, target = train.source[index].tolist(), train.target[index].tolist()
        assert batch.source[row][batch.source_mask[row] == 1].tolist() == [*source, 2]
        assert batch.labels[row][batch.labels[row] != -100].tolist() == [*target, 2]
        assert batch.decoder_input[row][: len(target) + 1].tolist() == [0, *target]


def test_seed_decides(train: Split) -> None:
    one, two, other = (BatchStream(train, batch_tokens=BATCH_TOKENS, seed=seed) for seed in (3, 3, 4))
    first = list(islice(one, 60))
    assert all(map(same, first, islice(two, 60)))
    assert not all(map(same, first, islice(other, 60)))


@pytest.mark.parametrize("epochs_ahead", [0, 0.3, 1.0, 2.7])
def test_state_is_exact(train: Split, epochs_ahead: float) -> None:
    stream = BatchStream(train, batch_tokens=BATCH_TOKENS, seed=5)
    epoch = len(epoch_of(BatchStream(train, batch_tokens=BATCH_TOKENS, seed=5)))
    for _ in range(int(epochs_ahead * epoch)):
        next(stream)
    state = stream.state()
    assert all(type(value) is int for value in state.values())
    resumed = BatchStream(train, batch_tokens=BATCH_TOKENS, seed=5)
    resumed.load_state(state)
    assert resumed.state() == state
    assert all(map(same, islice(stream, 2 * epoch), islice(resumed, 2 * epoch)))


def test_state_of_another_corpus(train: Split) -> None:
    with pytest.raises(StudyError, match="batch 100000 of an epoch of"):
        BatchStream(train, batch_tokens=BATCH_TOKENS, seed=0).load_state({"epoch": 0, "position": 100_000})


def test_other_targets(train: Split) -> None:
    targets = array_of([[4 + i % 200] for i in range(len(train))])
    batch = next(BatchStream(train, batch_tokens=BATCH_TOKENS, seed=0, targets=targets))
    assert batch.labels[:, 0].tolist() == [4 + i % 200 for i in batch.indices.tolist()]
    with pytest.raises(StudyError, match="must be aligned"):
        BatchStream(train, batch_tokens=BATCH_TOKENS, seed=0, targets=array_of([[4]]))


def test_a_limit_below_the_longest_sentence(train: Split) -> None:
    with pytest.raises(StudyError, match=r"batch_tokens is 4, but the longest sentence has \d+ tokens"):
        BatchStream(train, batch_tokens=4, seed=0)


lengths = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=80)


@given(lengths, st.integers(31, 300), st.integers(0, 5))
def test_plan(rows: list[tuple[int, int]], batch_tokens: int, seed: int) -> None:
    source, target = np.array(rows, dtype=np.int64).T
    plan = plan_batches(source, target, batch_tokens=batch_tokens, rng=np.random.default_rng(seed))
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(rows)))
    for batch in plan:
        assert (np.maximum(source, target)[batch].max() + 1) * len(batch) <= batch_tokens


@pytest.mark.parametrize("batch_tokens", [3, BATCH_TOKENS])
def test_ordered_batches_cover_each_sentence_once(corpus: PreparedCorpus, batch_tokens: int) -> None:
    split = corpus.split("test")
    batches = ordered_batches(split, batch_tokens=batch_tokens)
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(len(split)))
    widths = [max(batch.source.shape[1], batch.labels.shape[1]) for batch in batches]
    assert widths == sorted(widths)
    for width, batch in zip(widths, batches, strict=True):
        assert width * len(batch) <= batch_tokens or len(batch) == 1
