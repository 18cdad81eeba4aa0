"""Timing against a clock that the test turns; the engines only for their keys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.compression.formats import save_compressed
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.evaluation import classifier_latency, latency
from pipeline.evaluation.classifier_latency import measure_classifier_latencies
from pipeline.evaluation.latency import Timed, in_batches, measure_latencies, time_in_turns
from pipeline.evaluation.text_to_class import SentenceEncoder
from tests.benches import candidate_of
from tests.classifiers import write_classifier


class Machine:
    """A clock that stands still but for what the work adds, and a diary of what was open and translated."""

    def __init__(self, *, milliseconds: float = 1.0) -> None:
        self.now, self.milliseconds = 0.0, milliseconds
        self.opened: list[str] = []
        self.calls: list[tuple[str, list[str]]] = []

    def __call__(self) -> float:
        return self.now

    def timed(self, name: str, *, slower: float = 1.0) -> Timed:
        @contextlib.contextmanager
        def opening() -> Iterator[Any]:
            self.opened.append(name)

            def translate(lines: list[str]) -> None:
                self.calls.append((name, lines))
                self.now += slower * self.milliseconds * len(lines) / 1000

            yield translate

        return Timed(run_id=name, engine="ctranslate2-float32", threads=1, open=opening)


def test_every_model_has_its_turn_in_every_round() -> None:
    machine = Machine()
    records = time_in_turns(
        [machine.timed("a"), machine.timed("b", slower=3)], ["1", "2"], batches=[1, 2], repeats=3, clock=machine
    )
    assert machine.opened == ["a", "b"] * 3
    assert [(one["run_id"], one["batch"], round(one["latency_ms_p50"], 6)) for one in records] == [
        ("a", 1, 1.0), ("a", 2, 2.0), ("b", 1, 3.0), ("b", 2, 6.0),
    ]  # fmt: skip
    assert set(records[0]) == {"run_id", "engine", "threads", "batch", "latency_ms_p50", "latency_ms_p95"}


def test_a_slow_round_does_not_count() -> None:
    machine = Machine()

    def slow_in_the_last_round() -> float:
        machine.milliseconds = 100.0 if len(machine.opened) > 2 else 1.0
        return machine.now

    records = time_in_turns(
        [machine.timed("a"), machine.timed("b")], ["1"] * 20, batches=[1], repeats=2, clock=slow_in_the_last_round
    )
    assert [one["latency_ms_p50"] for one in records] == pytest.approx([1.0, 1.0])
    assert [one["latency_ms_p95"] for one in records] == pytest.approx([1.0, 1.0])


def test_long_batches_move_the_tail_and_few_have_none() -> None:
    machine = Machine()

    def slow_for_some() -> float:
        machine.milliseconds = 100.0 if machine.calls and machine.calls[-1][1] == ["before a long one"] else 1.0
        return machine.now

    short, long = ["short"] * 17, ["before a long one", "long"] * 2
    (record,) = time_in_turns([machine.timed("a")], short + long, batches=[1], repeats=2, clock=slow_for_some)
    assert record["latency_ms_p50"] == pytest.approx(1.0)
    assert record["latency_ms_p95"] > 30
    (record,) = time_in_turns([machine.timed("a")], short, batches=[1], repeats=2, clock=machine)
    assert record["latency_ms_p95"] is None


def test_what_is_opened_is_warmed_up_untimed() -> None:
    machine = Machine()
    sentences = [str(number) for number in range(12)]
    time_in_turns([machine.timed("a")], sentences, batches=[1, 4, 12], repeats=1, clock=machine)
    sizes = [len(lines) for _, lines in machine.calls]
    assert sizes == [1] * (8 + 12) + [4] * (2 + 3) + [12] * (1 + 1)


def test_batches_are_whole() -> None:
    assert in_batches(["a", "b", "left over"], 2) == [["a", "b"]]
    with pytest.raises(StudyError, match="2 sentences do not fill one batch of 3"):
        in_batches(["a", "b"], 3)
    with pytest.raises(StudyError, match="batch is 0"):
        in_batches(["a"], 0)
    with pytest.raises(StudyError, match="repeats is 0"):
        time_in_turns([], ["a"], batches=[1], repeats=0)


@pytest.fixture
def model(corpus: PreparedCorpus, tmp_path: Path) -> Path:
    save_compressed(candidate_of(corpus), tmp_path / "model")
    return tmp_path / "model"


def measure(model: Path, corpus: PreparedCorpus, engines: list[str], **changes: Any) -> list[dict[str, Any]]:
    settings = {"threads": [1, 2], "batches": [1, 4], "repeats": 2, "beam": 2, "length_penalty": 1.0, "max_length": 12}
    lines = corpus.split("test").source_lines()[:8]
    pairs = [("m", engine) for engine in engines]
    return measure_latencies(pairs, {"m": model}, corpus.tokenizer(), lines, **(settings | changes))


def test_one_record_for_each_engine_number_of_threads_and_batch(model: Path, corpus: PreparedCorpus) -> None:
    records = measure(model, corpus, ["ctranslate2-int8", "transformers"])
    assert [(one["engine"], one["threads"], one["batch"]) for one in records] == [
        (engine, threads, batch)
        for engine in ("ctranslate2-int8", "transformers")
        for threads in (1, 2)
        for batch in (1, 4)
    ]
    assert all(one["latency_ms_p50"] > 0 and one["latency_ms_p95"] is None for one in records)  # of 8 calls, or 2
    with pytest.raises(StudyError, match="threads is 0"):
        measure(model, corpus, ["ctranslate2-float32"], threads=[0])


def test_engines_get_their_threads_and_torch_too(
    model: Path, corpus: PreparedCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, int, int]] = []
    plain_start = latency.start_engine

    def start(name: str, *arguments: Any, threads: int) -> Any:
        started.append((name, threads, torch.get_num_threads()))
        return plain_start("ctranslate2-float32", *arguments, threads=threads)

    monkeypatch.setattr(latency, "start_engine", start)
    before = torch.get_num_threads()
    measure(model, corpus, ["ctranslate2-float32", "onnxruntime-float32"], batches=[1])
    assert torch.get_num_threads() == before
    opened_again = [("ctranslate2-float32", number, number) for number in (1, 2)]
    kept_open = [("onnxruntime-float32", number, number) for number in (1, 2)]
    assert started == [*opened_again, *kept_open, *opened_again]


def test_classifiers_are_timed_from_text_to_class(
    sentences: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, int, int]] = []
    answered: list[list[int]] = []
    plain_start, plain_call = classifier_latency.start_classifier, classifier_latency._TextToClass.__call__

    def start(name: str, *arguments: Any, threads: int) -> Any:
        started.append((name, threads, torch.get_num_threads()))
        return plain_start(name, *arguments, threads=threads)

    def call(self: Any, lines: list[str]) -> list[int]:
        answered.append(plain_call(self, lines))
        return answered[-1]

    monkeypatch.setattr(classifier_latency, "start_classifier", start)
    monkeypatch.setattr(classifier_latency._TextToClass, "__call__", call)
    model = write_classifier(tmp_path / "model", sentences, run_id="mlm-w32x2-s0-seconds-fp32")
    settings: dict[str, Any] = {"threads": [1, 2], "batches": [1, 4], "repeats": 2}
    lines = sentences.sentences("test").lines()[:8]
    pairs = [("m", engine) for engine in ("onnxruntime-int8", "torch")]
    encode = SentenceEncoder.of_corpus(sentences)
    records = measure_classifier_latencies(pairs, {"m": model}, encode, lines, **settings)
    assert [(one["engine"], one["threads"], one["batch"]) for one in records] == [
        (engine, threads, batch) for _, engine in pairs for threads in (1, 2) for batch in (1, 4)
    ]
    assert set(records[0]) == {"run_id", "engine", "threads", "batch", "latency_ms_p50", "latency_ms_p95"}
    assert all(one["latency_ms_p50"] > 0 for one in records)
    kept_open = [("onnxruntime-int8", number, number) for number in (1, 2)]
    opened_again = [("torch", number, number) for number in (1, 2)]
    assert started == [*kept_open, *opened_again, *opened_again]
    assert {len(classes) for classes in answered} == {1, 4}
    with pytest.raises(StudyError, match="threads is 0"):
        measure_classifier_latencies(pairs, {"m": model}, encode, lines, **settings | {"threads": [0]})
