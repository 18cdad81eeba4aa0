"""How long a user waits: text in, text out, with tokenisation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engines.ctranslate2_engine import CTranslate2Engine
from pipeline.engines.search import BeamSearch
from pipeline.errors import StudyError
from pipeline.evaluation.decoding import check_search, decode_targets, encode_sources
from pipeline.progress import progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.models.seq2seq import Model


def time_batches(
    translate: Callable[[list[str]], Any],
    sentences: list[str],
    *,
    batch: int,
    repeats: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Time `translate` on batches of `batch` sentences: latency_ms_p50 and latency_ms_p95, in milliseconds a batch.

    The sentences are passed over `repeats` times after `warmup` untimed passes, in their order, the incomplete last
    batch left out; the quantiles are over every timed call. StudyError when there are fewer sentences than one batch.
    """
    if batch < 1 or repeats < 1:
        raise StudyError(f"batch {batch} and repeats {repeats} must be at least 1")
    if len(sentences) < batch:
        raise StudyError(f"{len(sentences)} sentences do not fill one batch of {batch}; raise time.sentences")
    batches = [sentences[i : i + batch] for i in range(0, len(sentences) - batch + 1, batch)]
    milliseconds = []
    for turn in progress(range(warmup + repeats), desc=f"batch {batch}", unit="pass"):
        for lines in batches:
            started = clock()
            translate(lines)
            if turn >= warmup:
                milliseconds.append(1000 * (clock() - started))
    middle, slow = np.quantile(milliseconds, [0.5, 0.95])
    return {"latency_ms_p50": float(middle), "latency_ms_p95": float(slow)}


def measure_latency(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    sentences: list[str],
    *,
    threads: Iterable[int] = (1,),
    batches: Iterable[int] = (1,),
    repeats: int = 3,
    warmup: int = 1,
    beam: int = 4,
    length_penalty: float = 1.0,
    max_length: int = 80,
) -> list[dict[str, Any]]:
    """Measure CTranslate2 in fp32 at every number of threads and every batch size, one dict each.

    Keys: latency_engine, latency_threads, latency_batch, latency_ms_p50, latency_ms_p95 (milliseconds a batch, from
    text to text). `threads` work on one batch. Measure alone on the machine. StudyError as in `time_batches`.
    """
    search = BeamSearch(beam=beam, length_penalty=length_penalty, max_length=max_length)
    check_search(model, search)
    positions = model.config.max_position_embeddings
    rows = []
    for number in threads:
        if number < 1:
            raise StudyError(f"threads is {number}; give at least 1")
        engine = CTranslate2Engine(model, tokenizer, intra_threads=number)

        def translate(lines: list[str], engine: CTranslate2Engine = engine) -> list[str]:
            handles = engine.submit(encode_sources(tokenizer, lines, max_tokens=positions), search)
            return decode_targets(tokenizer, [engine.collect(handle) for handle in handles])

        rows += [
            {"latency_engine": engine.name, "latency_threads": number, "latency_batch": batch}
            | time_batches(translate, sentences, batch=batch, repeats=repeats, warmup=warmup)
            for batch in batches
        ]
    return rows
