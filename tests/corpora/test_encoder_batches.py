"""Encoders' batches: places of all tokens, masks that a resumed stream gives again, parts that lose nothing."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.corpora.batches import Batch, BatchStream
from pipeline.corpora.encoder_batches import EncoderBatch
from pipeline.corpora.encoder_splits import LabelledSplit, TextSplit
from pipeline.corpora.masking import Masking
from pipeline.corpora.prepared import AnySplit, Split
from pipeline.corpora.streams import collate, open_stream, ordered_batches
from pipeline.corpora.token_array import TokenArray
from pipeline.errors import StudyError

FIELDS = ("source", "source_mask", "decoder_input", "labels", "indices")
BATCH_TOKENS = 100


def array_of(rows: list[list[int]]) -> TokenArray:
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return TokenArray(np.array([i for row in rows for i in row], dtype=np.uint16), offsets)


def same(left: Batch, right: Batch) -> bool:
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in FIELDS)


def text_split(name: str = "train", *, rows: int = 30, length: int = 14, last: int | None = None) -> TextSplit:
    ids = np.random.default_rng(1).integers(5, 300, (rows, length)).tolist()
    ids[-1] = ids[-1][:last]
    masking = Masking(probability=0.15, vocab_size=300, seed=0)
    return TextSplit(name=name, blocks=array_of(ids), masking=masking, directory=Path())


def labelled_split(name: str = "train", *, rows: int = 60) -> LabelledSplit:
    rng = np.random.default_rng(2)
    sentences = array_of([rng.integers(5, 300, size).tolist() for size in rng.integers(0, 30, rows)])
    return LabelledSplit(name=name, sentences=sentences, labels=rng.integers(0, 3, rows), classes=3, directory=Path())


@pytest.fixture(params=["text", "sentences"])
def split(request: pytest.FixtureRequest) -> AnySplit:
    return text_split() if request.param == "text" else labelled_split()


def epoch_of(stream: BatchStream, entries: int) -> list[Batch]:
    batches: list[Batch] = []
    while sum(map(len, batches)) < entries:
        batches.append(next(stream))
    assert stream.state()["position"] == len(batches)
    return batches


def test_places_of_a_sentences_tokens() -> None:
    sentences = array_of([[7, 8], [], [9]])
    split = LabelledSplit(name="x", sentences=sentences, labels=np.array([1, 0, 2]), classes=3, directory=Path())
    batch = collate(split, np.array([2, 1, 0]))
    assert isinstance(batch, EncoderBatch)
    assert batch.source.tolist() == [[0, 9, 2, 1], [0, 2, 1, 1], [0, 7, 8, 2]]
    assert batch.source_mask.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch.labels.tolist() == [[2], [0], [1]]
    assert (batch.decoder_input.shape, batch.indices.tolist()) == ((3, 0), [2, 1, 0])
    assert (batch.source_tokens, batch.target_tokens, batch.trained_tokens) == (9, 3, 9)
    assert {getattr(batch, name).dtype for name in FIELDS} == {torch.int64}
    empty = LabelledSplit(name="x", sentences=array_of([[]]), labels=np.array([1]), classes=2, directory=Path())
    assert collate(empty, np.array([0])).source.tolist() == [[0, 2]]


def test_places_of_a_blocks_tokens() -> None:
    split = text_split("valid", rows=2, length=14, last=3)
    batch = collate(split, np.array([0, 1]))
    real = torch.where(batch.labels == -100, batch.source, batch.labels)
    assert real[0].tolist() == [0, *split.blocks[0].tolist(), 2]
    assert real[1].tolist() == [0, *split.blocks[1].tolist(), 2, *[1] * 11]
    assert batch.source_mask.sum(1).tolist() == [16, 5]
    assert (batch.labels[batch.source_mask == 0] == -100).all()
    assert batch.trained_tokens == 21


def test_fixed_masks_are_the_same_in_any_batch() -> None:
    split = text_split("valid", last=5)
    alone = [collate(split, np.array([i])) for i in range(len(split))]
    for batch in ordered_batches(split, batch_tokens=BATCH_TOKENS):
        for row, index in enumerate(batch.indices.tolist()):
            width = alone[index].source.shape[1]
            assert torch.equal(batch.source[row, :width], alone[index].source[0])
            assert torch.equal(batch.labels[row, :width], alone[index].labels[0])
    assert not same(alone[0], collate(text_split("test", last=5), np.array([0])))


def test_every_entry_once_an_epoch_within_the_limit(split: AnySplit) -> None:
    stream = open_stream(split, batch_tokens=BATCH_TOKENS, seed=0)
    orders = []
    for _ in range(3):
        batches = epoch_of(stream, len(split))
        assert all(batch.source.numel() <= BATCH_TOKENS for batch in batches)
        orders.append(torch.cat([batch.indices for batch in batches]))
        assert sorted(orders[-1].tolist()) == list(range(len(split)))
    assert not torch.equal(orders[0], orders[1])


def test_training_text_has_no_padding_and_something_scored_in_every_block() -> None:
    for batch in islice(open_stream(text_split(), batch_tokens=BATCH_TOKENS, seed=0), 20):
        assert bool(batch.source_mask.all())
        assert bool((batch.labels != -100).any(dim=1).all())


def test_sentences_of_like_length_are_together() -> None:
    split = labelled_split(rows=400)
    batches = epoch_of(open_stream(split, batch_tokens=BATCH_TOKENS, seed=0), len(split))
    assert sum(batch.source_tokens for batch in batches) / sum(batch.source.numel() for batch in batches) > 0.9


def test_masks_are_drawn_anew_every_epoch() -> None:
    split = text_split()
    stream = open_stream(split, batch_tokens=BATCH_TOKENS, seed=0)
    seen: list[dict[int, list[int]]] = []
    for _ in range(2):
        rows = (zip(b.indices.tolist(), b.labels.tolist(), strict=True) for b in epoch_of(stream, len(split)))
        seen.append({index: labels for batch in rows for index, labels in batch})
    assert sum(seen[0][i] == seen[1][i] for i in range(len(split))) < 5


def test_masks_depend_on_seed_epoch_and_position() -> None:
    split = text_split()
    places: list[list[tuple[int, ...]]] = []
    for seed in (0, 1):
        stream = open_stream(split, batch_tokens=BATCH_TOKENS, seed=seed)
        for _ in range(2):
            batches = epoch_of(stream, len(split))
            places += [[tuple((batch.labels[0] != -100).tolist()) for batch in batches]]
    # which places of a batch's first block are scored, of five batches, in four epochs: 1 or 2 or 3 of 14
    assert len({pattern for epoch in places for pattern in epoch}) > 12
    for other in places[1:]:
        assert sum(left == right for left, right in zip(places[0], other, strict=True)) < 3


@pytest.mark.parametrize("ahead", [0, 3, 17, 40])
def test_a_resumed_stream_gives_the_same_batches(split: AnySplit, ahead: int) -> None:
    stream = open_stream(split, batch_tokens=BATCH_TOKENS, seed=5)
    for _ in range(ahead):
        next(stream)
    state = stream.state()
    resumed = open_stream(split, batch_tokens=BATCH_TOKENS, seed=5)
    resumed.load_state(state)
    assert resumed.state() == state
    assert all(map(same, islice(stream, 30), islice(resumed, 30)))
    other = open_stream(split, batch_tokens=BATCH_TOKENS, seed=6)
    other.load_state(state)
    assert not all(map(same, islice(open_stream(split, batch_tokens=BATCH_TOKENS, seed=5), 5), islice(other, 5)))


@pytest.mark.parametrize("parts", [1, 2, 5, 100])
def test_parts_hold_the_batch(split: AnySplit, parts: int) -> None:
    batch = next(open_stream(split, batch_tokens=400, seed=0))
    found = batch.split(parts)
    assert len(found) == min(parts, len(batch))
    assert all(isinstance(part, EncoderBatch) for part in found)
    assert sum(part.target_tokens for part in found) == batch.target_tokens
    assert sum(part.trained_tokens for part in found) == batch.trained_tokens
    assert torch.equal(torch.cat([part.indices for part in found]), batch.indices)
    for part in found:
        assert part.source.shape[1] == int(part.source_mask.sum(1).max()), "no wider than its longest row"
        assert part.labels.shape[1] == (1 if isinstance(split, LabelledSplit) else part.source.shape[1])
        assert part.target_tokens >= len(part)


def test_micro_batches_are_within_their_limit(split: AnySplit) -> None:
    batch = next(open_stream(split, batch_tokens=400, seed=0))
    parts = batch.within(100)
    assert len(parts) > 1
    assert all(part.source.numel() <= 100 or len(part) == 1 for part in parts)
    assert batch.within(None) == [batch]


def test_to_another_device_keeps_its_kind(split: AnySplit) -> None:
    batch = next(open_stream(split, batch_tokens=400, seed=0))
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))
    assert isinstance(moved, EncoderBatch)
    assert moved.labels.shape == batch.labels.shape


@pytest.mark.parametrize("batch_tokens", [3, BATCH_TOKENS])
def test_ordered_batches_cover_each_entry_once(batch_tokens: int) -> None:
    for split in (text_split("valid", last=5), labelled_split("valid")):
        batches = ordered_batches(split, batch_tokens=batch_tokens)
        assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(len(split)))
        widths = [batch.source.shape[1] for batch in batches]
        assert widths == sorted(widths)
        assert all(batch.source.numel() <= batch_tokens or len(batch) == 1 for batch in batches)


def test_pairs_go_through_the_same_door() -> None:
    pairs = Split(name="train", source=array_of([[7, 8], [9]]), target=array_of([[5], [6, 4]]), directory=Path())
    assert same(next(open_stream(pairs, batch_tokens=50, seed=1)), next(BatchStream(pairs, batch_tokens=50, seed=1)))
    assert next(open_stream(pairs, batch_tokens=50, seed=1)).trained_tokens == 5
    assert collate(pairs, np.array([1])).source.tolist() == [[9, 2]]
    assert sum(map(len, ordered_batches(pairs, batch_tokens=4))) == 2


def test_faults(split: AnySplit) -> None:
    with pytest.raises(StudyError, match="targets are for sentence pairs"):
        open_stream(split, batch_tokens=400, seed=0, targets=array_of([[4]] * len(split)))
    with pytest.raises(StudyError, match=r"batch_tokens is 8, but .* has \d+ tokens.*corpus\.(sequence|max)_tokens"):
        open_stream(split, batch_tokens=8, seed=0)
    empty = LabelledSplit(
        name="train", sentences=array_of([]), labels=np.zeros(0, dtype=np.int64), classes=2, directory=Path()
    )
    with pytest.raises(StudyError, match="the split train is empty"):
        open_stream(empty, batch_tokens=400, seed=0)
