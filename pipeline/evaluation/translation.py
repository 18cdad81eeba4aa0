"""Test-set translations and their scores, for the models that a selection names."""

from __future__ import annotations

import json
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.compression.activation_rounding import rounds_inputs
from pipeline.compression.formats import QUANTO, load_model, weights_file
from pipeline.compression.quanto_files import plain_model
from pipeline.corpora.prepared import PreparedCorpus, Split
from pipeline.errors import StudyError
from pipeline.evaluation.decoding import translate
from pipeline.evaluation.processes import on_every_core
from pipeline.evaluation.resampling import bootstrap_interval
from pipeline.evaluation.scores import bleu_from_statistics, corpus_scores, sentence_bleu_statistics
from pipeline.files import atomic_path

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


def plain(directory: Path) -> Model:
    """Load a model directory as engines take it: optimum-quanto's layers as plain ones of the same weights."""
    model = load_model(directory)
    return plain_model(model) if weights_file(directory).name == QUANTO else model


def decode_lines(directory: Path, sources: list[str], *, tokenizer: Any, search: dict[str, Any]) -> list[str]:
    """Translate lines with the model in `directory`, on one thread; one hypothesis a line, counted.

    By CTranslate2, or by our own decoder where linear layers round their inputs, of which CTranslate2 knows nothing.
    """
    model = plain(directory)
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


opened = lru_cache(maxsize=1)(PreparedCorpus.open)
"""A corpus, read once a process."""


def score_lines(hypotheses: list[str], split: Split, *, resamples: int) -> dict[str, Any]:
    """Return what a row says of hypotheses for a split: BLEU with its interval, chrF, and both signatures.

    The interval is a bootstrap over components of sentences alone: it says nothing about training seeds.
    """
    references = split.references()
    scores = corpus_scores(hypotheses, references)
    statistics = sentence_bleu_statistics(hypotheses, references)
    interval = bootstrap_interval(statistics, split.components(), bleu_from_statistics, resamples=resamples)
    return {
        "quality": scores["bleu"],
        "quality_low": interval.low,
        "quality_high": interval.high,
        "signature": scores["bleu_signature"],
        "chrf": scores["chrf"],
        "chrf_signature": scores["chrf_signature"],
    }


def write_lines(path: Path, hypotheses: list[str]) -> None:
    """Write one hypothesis a line."""
    path.write_text("".join(f"{line}\n" for line in hypotheses), encoding="utf-8")


def _translate_and_score(
    model: tuple[str, Path], *, search: dict[str, Any], corpus_path: Path, resamples: int
) -> tuple[list[str], dict[str, Any]]:
    """Return one model's hypotheses and their scores."""
    corpus = opened(corpus_path)
    split = corpus.pairs("test")
    hypotheses = decode_lines(model[1], split.source_lines(), tokenizer=corpus.tokenizer(), search=search)
    return hypotheses, score_lines(hypotheses, split, resamples=resamples)


def translate_test(
    models: dict[str, Path], *, search: dict[str, Any], corpus: PreparedCorpus, resamples: int, out: Path
) -> str:
    """Write `out`: ``<run_id>.txt`` for every model and translations.json with scores, signatures and intervals.

    Models are spread over the cores, a process and a thread each: scoring takes as long as a small model's beam search.
    """
    work = partial(_translate_and_score, search=search, corpus_path=corpus.path, resamples=resamples)
    records: dict[str, Any] = {}
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        for (run_id, _), (hypotheses, record) in on_every_core(work, models.items(), desc="translate"):
            write_lines(temporary / f"{run_id}.txt", hypotheses)
            records[run_id] = record
        text = json.dumps(records, indent=2, sort_keys=True, allow_nan=False)
        (temporary / "translations.json").write_text(text + "\n", encoding="utf-8")
    return f"{out}: {len(models)} models translated {len(corpus.split('test'))} test sentences"
