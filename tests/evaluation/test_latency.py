"""Timing against a clock that the test turns; the engine only for its keys."""

from __future__ import annotations

import pytest

from pipeline.errors import StudyError
from pipeline.evaluation.latency import measure_latency, time_batches


class Clock:
    """Stands still but for what the work adds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_quantiles_of_known_times_without_warm_up_and_remainder() -> None:
    clock, seen = Clock(), []

    def work(lines: list[str]) -> None:
        seen.append(lines)
        clock.now += 100.0 if len(seen) <= 2 else int(lines[0]) / 1000  # the warm-up pass is slow

    measured = time_batches(work, ["1", "x", "3", "x", "left over"], batch=2, repeats=10, warmup=1, clock=clock)
    assert len(seen) == 2 * 11
    assert ["left over"] not in seen
    assert measured["latency_ms_p50"] == pytest.approx(2.0)
    assert measured["latency_ms_p95"] == pytest.approx(3.0)


def test_one_record_for_each_number_of_threads_and_batch(trained) -> None:
    records = measure_latency(
        trained.model,
        trained.tokenizer,
        trained.lines[:8],
        threads=[1, 2],
        batches=[1, 4],
        repeats=2,
        beam=2,
        max_length=12,
    )
    assert [(r["latency_threads"], r["latency_batch"]) for r in records] == [(1, 1), (1, 4), (2, 1), (2, 4)]
    for record in records:
        assert record["latency_engine"] == "ctranslate2-float32"
        assert 0 < record["latency_ms_p50"] <= record["latency_ms_p95"]


def test_bad_input_is_one_line(trained) -> None:
    with pytest.raises(StudyError, match="2 sentences do not fill one batch of 3"):
        time_batches(len, ["a", "b"], batch=3, repeats=1)
    with pytest.raises(StudyError, match="repeats 0"):
        time_batches(len, ["a"], batch=1, repeats=0)
    with pytest.raises(StudyError, match="threads is 0"):
        measure_latency(trained.model, trained.tokenizer, ["w1"], threads=[0])
