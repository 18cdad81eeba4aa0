"""How long a user waits for a class: text in, class out, with tokenisation, in turns as pipeline.evaluation.latency does it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engines.registry import start_classifier
from pipeline.evaluation.classification import predicted
from pipeline.evaluation.latency import time_in_turns, timed
from pipeline.evaluation.translation import plain

if TYPE_CHECKING:
    from pipeline.engines.classifier import Classifier
    from pipeline.evaluation.text_to_class import SentenceEncoder
    from pipeline.models.seq2seq import Model


class _TextToClass:
    """From text to classes in an engine."""

    def __init__(self, engine: Classifier, encode: SentenceEncoder) -> None:
        self.engine, self.encode = engine, encode

    def __call__(self, lines: list[str]) -> list[int]:
        """Classify one batch."""
        return predicted(self.engine.classify(self.encode(lines))).tolist()


def _classifier(name: str, model: Model, encode: SentenceEncoder, threads: int) -> _TextToClass:
    return _TextToClass(start_classifier(name, model, threads=threads), encode)


def measure_classifier_latencies(
    pairs: Iterable[tuple[str, str]],
    models: dict[str, Path],
    encode: SentenceEncoder,
    sentences: list[str],
    *,
    threads: Iterable[int],
    batches: Iterable[int],
    repeats: int,
) -> list[dict[str, Any]]:
    """Time every (run_id, engine) at every number of threads and batch size, with the keys of `time_in_turns`.

    `models` are directories by run_id. `threads` work on one batch; the tokenizer's threads are the caller's to set.
    Measure alone on the machine. StudyError on numbers out of range and on fewer sentences than one batch.
    """
    loaded: dict[str, Model] = {}
    everything = []
    for run_id, engine in pairs:
        if run_id not in loaded:
            loaded[run_id] = plain(models[run_id])
        for number in threads:
            start = partial(_classifier, engine, loaded[run_id], encode, number)
            everything.append(timed(run_id, engine, number, start))
    return time_in_turns(everything, sentences, batches=batches, repeats=repeats)
