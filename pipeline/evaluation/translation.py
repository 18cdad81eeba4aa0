"""Test-set translations and their scores, for the models that a selection names."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from pipeline.compression.activation_rounding import rounds_inputs
from pipeline.compression.formats import QUANTO, load_model, weights_file
from pipeline.compression.quanto_files import plain_model
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.evaluation.decoding import translate
from pipeline.evaluation.resampling import bootstrap_interval
from pipeline.evaluation.scores import bleu_from_statistics, corpus_scores, sentence_bleu_statistics
from pipeline.files import atomic_path
from pipeline.progress import progress


def decode_lines(directory: Path, sources: list[str], *, tokenizer: Any, search: dict[str, Any]) -> list[str]:
    """Translate lines with the model in `directory`, on one thread; one hypothesis a line, counted.

    By CTranslate2, or by our own decoder where linear layers round their inputs, of which CTranslate2 knows nothing.
    """
    model = load_model(directory)
    if weights_file(directory).name == QUANTO:
        model = plain_model(model)
    hypotheses = translate(
        model,
        tokenizer,
        sources,
        beam=search["beam"],
        length_penalty=search["length_penalty"],
        max_length=search["max_length"],
        engine="torch" if rounds_inputs(model) else "ctranslate2-float32",
    )
    if len(hypotheses) != len(sources):
        raise StudyError(f"{directory}: {len(hypotheses)} hypotheses for {len(sources)} lines; the engine lost some")
    return hypotheses


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the process that waits for this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_opened = lru_cache(maxsize=1)(PreparedCorpus.open)


def _translate_and_score(
    directory: Path, *, search: dict[str, Any], corpus_path: Path, resamples: int
) -> tuple[list[str], dict[str, Any]]:
    """Return one model's hypotheses and their scores."""
    torch.set_num_threads(1)
    corpus = _opened(corpus_path)
    split = corpus.split("test")
    references = split.references()
    hypotheses = decode_lines(directory, split.source_lines(), tokenizer=corpus.tokenizer(), search=search)
    scores = corpus_scores(hypotheses, references)
    statistics = sentence_bleu_statistics(hypotheses, references)
    interval = bootstrap_interval(statistics, split.components(), bleu_from_statistics, resamples=resamples)
    return hypotheses, {
        "quality": scores["bleu"],
        "quality_low": interval.low,
        "quality_high": interval.high,
        "signature": scores["bleu_signature"],
        "chrf": scores["chrf"],
        "chrf_signature": scores["chrf_signature"],
    }


def translate_test(
    models: dict[str, Path], *, search: dict[str, Any], corpus: PreparedCorpus, resamples: int, out: Path
) -> str:
    """Write `out`: ``<run_id>.txt`` for every model and translations.json with scores, signatures and intervals.

    The interval of a row is a bootstrap over components of test sentences alone: it says nothing about training seeds.
    Models are spread over the cores, a process and a thread each: scoring takes as long as a small model's beam search.
    """
    work = partial(_translate_and_score, search=search, corpus_path=corpus.path, resamples=resamples)
    records: dict[str, Any] = {}
    cores = ProcessPoolExecutor(os.cpu_count() or 1, mp_context=get_context("spawn"), initializer=_ignore_interrupts)
    with atomic_path(out) as temporary, cores as pool:
        temporary.mkdir(parents=True)
        try:
            done = pool.map(work, models.values())
            for run_id, (hypotheses, record) in progress(
                zip(models, done, strict=True), total=len(models), desc="translate", unit="model"
            ):
                (temporary / f"{run_id}.txt").write_text("".join(f"{line}\n" for line in hypotheses), encoding="utf-8")
                records[run_id] = record
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        text = json.dumps(records, indent=2, sort_keys=True, allow_nan=False)
        (temporary / "translations.json").write_text(text + "\n", encoding="utf-8")
    return f"{out}: {len(models)} models translated {len(corpus.split('test'))} test sentences"
