"""The calibration set: which sentences, and what a pass over them costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.compression.calibration_set import (
    calibration_batches,
    charge_algebra,
    charge_passes,
    seconds_per_flop,
)
from pipeline.corpora.batches import BatchStream, collate
from pipeline.corpora.prepared import PreparedCorpus, Split, TokenArray
from pipeline.corpora.streams import open_stream
from pipeline.errors import StudyError
from pipeline.flops import forward_flops, train_flops
from pipeline.training.pricing import padded_positions
from tests.benches import SIZE, bench_of, candidate_of, size_for


def test_the_set_is_so_many_sentences_of_training_the_same_ones_every_time(
    corpus: PreparedCorpus, tmp_path: Path
) -> None:
    bench = bench_of(corpus, tmp_path)
    batches = calibration_batches(bench, 50)
    chosen = torch.cat([batch.indices for batch in batches])
    assert len(chosen) == len(set(chosen.tolist())) == 50
    assert len(batches) > 1
    assert all(max(batch.source.shape[1], batch.labels.shape[1]) * len(batch) <= 300 for batch in batches)
    expected = collate(corpus.split("train"), batches[0].indices.numpy())
    assert torch.equal(batches[0].decoder_input, expected.decoder_input)
    again = calibration_batches(bench, 50)
    assert all(torch.equal(one.source, two.source) for one, two in zip(batches, again, strict=True))
    more = torch.cat([batch.indices for batch in calibration_batches(bench, 60)])
    assert set(chosen.tolist()) < set(more.tolist())
    others = calibration_batches(bench_of(corpus, tmp_path, seed=1), 50)
    assert set(torch.cat([batch.indices for batch in others]).tolist()) != set(chosen.tolist())


def test_a_set_larger_than_the_split_is_the_split(each_corpus: PreparedCorpus, tmp_path: Path) -> None:
    batches = calibration_batches(bench_of(each_corpus, tmp_path), 10**6)
    indices = torch.cat([batch.indices for batch in batches])
    assert sorted(indices.tolist()) == list(range(len(each_corpus.split("train"))))
    assert all(batch.source.numel() <= 300 for batch in batches)


def test_labelled_sentences_are_chosen_in_the_same_way(sentences: PreparedCorpus, tmp_path: Path) -> None:
    batches = calibration_batches(bench_of(sentences, tmp_path), 50)
    chosen = torch.cat([batch.indices for batch in batches]).tolist()
    assert len(chosen) == len(set(chosen)) == 50
    more = torch.cat([batch.indices for batch in calibration_batches(bench_of(sentences, tmp_path), 60)]).tolist()
    assert set(chosen) < set(more)
    split = sentences.sentences("train")
    for batch in batches:
        assert batch.labels[:, 0].tolist() == split.labels[batch.indices.numpy()].tolist()


def test_a_classifiers_pass_scores_nothing_and_counts_what_it_reads(sentences: PreparedCorpus, tmp_path: Path) -> None:
    bench, candidate, size = bench_of(sentences, tmp_path), candidate_of(sentences), size_for(sentences)
    stream = open_stream(sentences.split("train"), batch_tokens=300, seed=0)
    some = [next(stream) for _ in range(64)]
    mean = sum(train_flops(size, padded_positions(batch), vocab_size=sentences.vocab_size) for batch in some) / 64
    assert size.key.endswith("c2")
    assert seconds_per_flop(candidate, bench) == pytest.approx(0.5 / mean)
    batches = calibration_batches(bench, 40)
    charge_passes(candidate, bench, batches, passes=2)
    cost = candidate.ledger.of("calibrate")
    whole = sum(forward_flops(size, padded_positions(batch), vocab_size=sentences.vocab_size) for batch in batches)
    head = 40 * 2 * size.d_model * (size.d_model + 2)
    assert cost.flops == pytest.approx(2 * (whole - head))
    assert cost.tokens == 2 * sum(batch.source_tokens for batch in batches)


def test_an_empty_set_is_refused(corpus: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_of(corpus, tmp_path)
    with pytest.raises(StudyError, match="0 sentences"):
        calibration_batches(bench, 0)
    full = corpus.split("train")
    nothing = TokenArray(full.source.ids[:0], full.source.offsets[:1])

    def empty(name: str) -> Split:
        return replace(full, source=nothing, target=nothing)

    monkeypatch.setattr(corpus, "split", empty)
    with pytest.raises(StudyError, match="out of 0 is empty"):
        calibration_batches(bench, 8)


def test_a_pass_costs_its_flops_at_the_rate_of_training(corpus: PreparedCorpus, tmp_path: Path) -> None:
    bench, candidate = bench_of(corpus, tmp_path), candidate_of(corpus)
    stream = BatchStream(corpus.split("train"), batch_tokens=300, seed=0)
    some = [next(stream) for _ in range(64)]
    mean = sum(train_flops(SIZE, padded_positions(batch), vocab_size=corpus.vocab_size) for batch in some) / 64
    assert seconds_per_flop(candidate, bench) == pytest.approx(0.5 / mean)

    batches = calibration_batches(bench, 40)
    charge_passes(candidate, bench, batches, passes=3)
    charge_algebra(candidate, bench, 1e6)
    cost = candidate.ledger.of("calibrate")
    assert candidate.ledger.total == cost
    whole = sum(forward_flops(SIZE, padded_positions(batch), vocab_size=corpus.vocab_size) for batch in batches)
    logits = sum(2 * SIZE.d_model * corpus.vocab_size * batch.target_tokens for batch in batches)
    assert cost.flops == pytest.approx(3 * (whole - logits) + 1e6)
    assert cost.seconds == pytest.approx(cost.flops * 0.5 / mean)
    assert cost.tokens == 3 * sum(batch.target_tokens for batch in batches)
    assert cost.steps == 0


@pytest.mark.parametrize("seconds", [None, {}, {"train": {}}, {"train": {SIZE.key: None}}])
def test_a_size_without_calibrated_seconds_is_refused(corpus: PreparedCorpus, tmp_path: Path, seconds: object) -> None:
    bench, candidate = bench_of(corpus, tmp_path, seconds_per_step=seconds), candidate_of(corpus)
    with pytest.raises(StudyError, match=r"not calibrated; run `python -m stages\.calibrate --study tiny`"):
        charge_passes(candidate, bench, calibration_batches(bench, 4))
    assert not candidate.ledger.by_purpose
