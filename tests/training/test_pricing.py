"""Prices against what torch counts in the very step that they charge for, and the share of it that is padding."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from pipeline.budget import Cost
from pipeline.corpora.batches import Batch, BatchStream, collate
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.distillation.losses import WordDistillation
from pipeline.flops import train_flops
from pipeline.models.seq2seq import build
from pipeline.size import SizeSpec
from pipeline.training.forward import Forward, FusedForward, ReferenceForward
from pipeline.training.objectives import CrossEntropy, Objective
from pipeline.training.pricing import padded_positions, padding_share, step_price, taught_price

SIZE = SizeSpec(d_model=16, num_layers=2, num_heads=2, ffn_dim=40)
KINDS = (ReferenceForward, FusedForward)
TEACHER = SizeSpec(d_model=24, num_layers=1, num_heads=3)


@pytest.fixture
def batches(corpus: PreparedCorpus) -> list[Batch]:
    """Some batches of the training stream, padding in each."""
    first = list(islice(BatchStream(corpus.split("train"), batch_tokens=900, seed=0), 3))
    assert all((batch.source_mask == 0).any() and (batch.labels == -100).any() for batch in first)
    return first


def _counted(objective: Objective, batch: Batch, vocab_size: int, kind: Callable[..., Forward]) -> int:
    forward = kind(build(SIZE, vocab_size=vocab_size, dropout=0.1, seed=0).train(), precision="fp32")
    with FlopCounterMode(display=False) as counter:
        objective(forward, batch, step=0).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_costs_what_torch_counts(
    batches: list[Batch], corpus: PreparedCorpus, kind: Callable[..., Forward]
) -> None:
    price = step_price(SIZE, vocab_size=corpus.vocab_size, seconds_per_step=0.5)
    for batch in batches:
        counted = _counted(CrossEntropy(label_smoothing=0.1), batch, corpus.vocab_size, kind)
        assert price(batch, 0) == {"train": Cost(flops=counted, seconds=0.5, tokens=batch.target_tokens, steps=1)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_taught_step_costs_a_teachers_forward_pass_more(
    batches: list[Batch], corpus: PreparedCorpus, kind: Callable[..., Forward]
) -> None:
    own = step_price(SIZE, vocab_size=corpus.vocab_size, seconds_per_step=0.5)
    price = taught_price(own, TEACHER, vocab_size=corpus.vocab_size, seconds_per_step=0.2, until=1)
    taught = WordDistillation(
        teacher=kind(build(TEACHER, vocab_size=corpus.vocab_size, seed=1).eval(), precision="fp32"),
        label_smoothing=0.1,
        alpha=0.5,
        temperature=2.0,
        direction="forward",
        teacher_until=1,
    )
    for batch in batches:
        costs = price(batch, 0)
        counted = _counted(taught, batch, corpus.vocab_size, kind)
        assert costs["train"].flops + costs["teacher"].flops == counted
        assert 0 < costs["teacher"].flops < counted / 2
        assert price(batch, 1) == own(batch, 1)


def test_padding_is_what_single_sentences_would_spare(batches: list[Batch], corpus: PreparedCorpus) -> None:
    train, vocabulary = corpus.split("train"), corpus.vocab_size
    padded = sum(train_flops(SIZE, padded_positions(batch), vocab_size=vocabulary) for batch in batches)
    alone = sum(
        train_flops(SIZE, padded_positions(collate(train, np.array([index]))), vocab_size=vocabulary)
        for batch in batches
        for index in batch.indices.tolist()
    )
    assert padding_share(SIZE, batches, vocab_size=vocabulary) == 1 - alone / padded > 0
    single = [collate(train, np.array([index])) for index in range(3)]
    assert padding_share(SIZE, single, vocab_size=vocabulary) == 0
