"""Test-set translations and their scores, for the models that a selection names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipeline.compression.formats import load_model
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.evaluation.decoding import translate
from pipeline.evaluation.resampling import bootstrap_interval
from pipeline.evaluation.scores import bleu_from_statistics, corpus_scores, sentence_bleu_statistics
from pipeline.files import atomic_path
from pipeline.progress import progress


def decode_lines(directory: Path, sources: list[str], *, tokenizer: Any, search: dict[str, Any]) -> list[str]:
    """Translate lines with the model in `directory`, on all cores; one hypothesis a line, counted."""
    hypotheses = translate(
        load_model(directory),
        tokenizer,
        sources,
        beam=search["beam"],
        length_penalty=search["length_penalty"],
        max_length=search["max_length"],
        threads=os.cpu_count() or 1,
    )
    if len(hypotheses) != len(sources):
        raise StudyError(f"{directory}: {len(hypotheses)} hypotheses for {len(sources)} lines; the engine lost some")
    return hypotheses


def translate_test(
    models: dict[str, Path], *, search: dict[str, Any], corpus: PreparedCorpus, resamples: int, out: Path
) -> str:
    """Write `out`: ``<run_id>.txt`` for every model and translations.json with scores, signatures and intervals.

    The interval of a row is a bootstrap over components of test sentences alone: it says nothing about training seeds.
    """
    split, tokenizer = corpus.split("test"), corpus.tokenizer()
    sources, references, components = split.source_lines(), split.references(), split.components()
    records: dict[str, Any] = {}
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        for run_id, directory in progress(models.items(), desc="translate", unit="model"):
            hypotheses = decode_lines(directory, sources, tokenizer=tokenizer, search=search)
            (temporary / f"{run_id}.txt").write_text("".join(f"{line}\n" for line in hypotheses), encoding="utf-8")
            scores = corpus_scores(hypotheses, references)
            statistics = sentence_bleu_statistics(hypotheses, references)
            interval = bootstrap_interval(statistics, components, bleu_from_statistics, resamples=resamples)
            records[run_id] = {
                "quality": scores["bleu"],
                "quality_low": interval.low,
                "quality_high": interval.high,
                "signature": scores["bleu_signature"],
                "chrf": scores["chrf"],
                "chrf_signature": scores["chrf_signature"],
            }
        text = json.dumps(records, indent=2, sort_keys=True, allow_nan=False)
        (temporary / "translations.json").write_text(text + "\n", encoding="utf-8")
    return f"{out}: {len(models)} models translated {len(sources)} test sentences"
