"""How long a user waits: text in, text out, with tokenisation, every model and engine in turn. Classifiers are timed alike.

A machine is never equally fast for minutes on end, so that models that are timed one after the other are not timed alike.
Here every model has its turn in every round, and a call counts with its fastest round: what else the machine did in the
others is left out. One engine is open at a time, as for a user
with one model: several CTranslate2 translators of two threads in one process were seen to slow each other.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.engines.registry import start_engine
from pipeline.engines.search import BeamSearch, Engine
from pipeline.errors import StudyError
from pipeline.evaluation.decoding import check_search, decode_targets, encode_sources
from pipeline.evaluation.translation import plain
from pipeline.progress import progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.models.seq2seq import Model

WARM_UP_SENTENCES = 8
"""Answered untimed whenever an engine has been opened, in batches of the size to be timed, at least one."""

LEAST_CALLS_OF_P95 = 20
"""Of fewer batches the largest would stand for the slowest twentieth."""

KEPT_OPEN = "onnxruntime-"
"""Engines so named stay open between their turns: exporting a model takes seconds, and their threads do not spin."""

Answer = Callable[[list[str]], Any]
"""From a batch of lines to what a user waits for."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What is timed: a model in an engine, on so many threads; `open` gives what answers lines, and closes it again."""

    run_id: str
    engine: str
    threads: int
    open: Callable[[], contextlib.AbstractContextManager[Answer]]


def in_batches(sentences: list[str], batch: int) -> list[list[str]]:
    """Return whole batches of sentences, in order, an incomplete last one left out; StudyError when there is none."""
    if batch < 1:
        raise StudyError(f"batch is {batch}; give at least 1")
    if len(sentences) < batch:
        raise StudyError(f"{len(sentences)} sentences do not fill one batch of {batch}; raise time.sentences")
    return [sentences[i : i + batch] for i in range(0, len(sentences) - batch + 1, batch)]


def time_in_turns(
    everything: Sequence[Timed],
    sentences: list[str],
    *,
    batches: Iterable[int],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """Time all of `everything` in each of `repeats` rounds, one pass over the sentences a batch size.

    Returns dicts with run_id, engine, threads, batch, latency_ms_p50 and latency_ms_p95: milliseconds a batch, quantiles
    over the batches of sentences, each in its fastest round; p95 is None of fewer than `LEAST_CALLS_OF_P95`. StudyError
    when there are fewer sentences than one batch.
    """
    if repeats < 1:
        raise StudyError(f"repeats is {repeats}; give at least 1")
    split = {batch: in_batches(sentences, batch) for batch in batches}
    fastest: dict[tuple[int, int], list[float]] = {
        (number, batch): [math.inf] * len(lists) for number in range(len(everything)) for batch, lists in split.items()
    }
    turns = [number for _ in range(repeats) for number in range(len(everything))]
    for number in progress(turns, desc="time", unit="turn"):
        with everything[number].open() as answer:
            for batch, lists in split.items():
                for lines in lists[: max(1, WARM_UP_SENTENCES // batch)]:
                    answer(lines)
                calls = fastest[number, batch]
                for call, lines in enumerate(lists):
                    started = clock()
                    answer(lines)
                    calls[call] = min(calls[call], 1000 * (clock() - started))
    records = []
    for (number, batch), calls in fastest.items():
        one = everything[number]
        slow = float(np.quantile(calls, 0.95)) if len(calls) >= LEAST_CALLS_OF_P95 else None
        records.append(
            {"run_id": one.run_id, "engine": one.engine, "threads": one.threads, "batch": batch}
            | {"latency_ms_p50": float(np.median(calls)), "latency_ms_p95": slow}
        )
    return records


@contextlib.contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def timed(run_id: str, engine: str, threads: int, start: Callable[[], Answer]) -> Timed:
    """Return a model in an engine on so many threads, in each turn started anew unless the engine is `KEPT_OPEN`.

    StudyError where `threads` is less than 1.
    """
    if threads < 1:
        raise StudyError(f"threads is {threads}; give at least 1")
    kept: list[Answer] = []

    @contextlib.contextmanager
    def opened() -> Iterator[Answer]:
        # torch's own engines take torch's number of threads; of the others only the conversion might use it.
        with _torch_threads(threads):
            if kept:
                yield kept[0]
                return
            answer = start()
            if engine.startswith(KEPT_OPEN):
                kept.append(answer)
            yield answer

    return Timed(run_id=run_id, engine=engine, threads=threads, open=opened)


class _Text:
    """From text to text in an engine."""

    def __init__(self, engine: Engine, tokenizer: PreTrainedTokenizerFast, search: BeamSearch, positions: int) -> None:
        self.engine, self.tokenizer, self.search, self.positions = engine, tokenizer, search, positions

    def __call__(self, lines: list[str]) -> list[str]:
        """Translate one batch."""
        handles = self.engine.submit(encode_sources(self.tokenizer, lines, max_tokens=self.positions), self.search)
        return decode_targets(self.tokenizer, [self.engine.collect(handle) for handle in handles])


def _translator(name: str, model: Model, tokenizer: PreTrainedTokenizerFast, search: BeamSearch, threads: int) -> _Text:
    engine = start_engine(name, model, tokenizer, threads=threads)
    return _Text(engine, tokenizer, search, model.config.max_position_embeddings)


def measure_latencies(
    pairs: Iterable[tuple[str, str]],
    models: dict[str, Path],
    tokenizer: PreTrainedTokenizerFast,
    sentences: list[str],
    *,
    threads: Iterable[int],
    batches: Iterable[int],
    repeats: int,
    beam: int,
    length_penalty: float,
    max_length: int,
) -> list[dict[str, Any]]:
    """Time every (run_id, engine) at every number of threads and batch size, with the keys of `time_in_turns`.

    `models` are directories by run_id. `threads` work on one batch. Measure alone on the machine. StudyError on numbers
    out of range and on fewer sentences than one batch.
    """
    search = BeamSearch(beam=beam, length_penalty=length_penalty, max_length=max_length)
    loaded: dict[str, Model] = {}
    everything = []
    for run_id, engine in pairs:
        if run_id not in loaded:
            loaded[run_id] = plain(models[run_id])
        model = loaded[run_id]
        check_search(model, search)
        for number in threads:
            start = partial(_translator, engine, model, tokenizer, search, number)
            everything.append(timed(run_id, engine, number, start))
    return time_in_turns(everything, sentences, batches=batches, repeats=repeats)
