"""BLEU and chrF through sacreBLEU, and BLEU from sufficient statistics for the bootstrap."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF

from pipeline.errors import StudyError

ORDERS = 4
"""BLEU counts n-grams of one to four words."""

STATISTICS = 2 * ORDERS + 2
"""Columns of a sentence's statistics: 4 matches, 4 totals, hypothesis length, reference length."""


def _check(hypotheses: list[str], references: list[list[str]]) -> None:
    if len(hypotheses) != len(references):
        raise StudyError(f"{len(hypotheses)} hypotheses for {len(references)} sentences; translate the whole set again")
    if not hypotheses:
        raise StudyError("there is nothing to score: no hypotheses; check the corpus's test split")
    for number, lines in enumerate(references):
        if not lines:
            raise StudyError(f"sentence {number + 1} has no reference; every test sentence needs at least one")


def _streams(references: list[list[str]]) -> list[list[Any]]:
    """Turn reference lists a sentence into sacreBLEU's streams, where None stands for a reference that is not there."""
    width = max(map(len, references))
    return [[lines[i] if i < len(lines) else None for lines in references] for i in range(width)]


def corpus_scores(hypotheses: list[str], references: list[list[str]]) -> dict[str, Any]:
    """Score hypotheses (n) against one or more references a sentence: BLEU and chrF2, 0 to 100, with signatures.

    Returns the keys bleu, bleu_signature, chrf, chrf_signature. The number of references may differ between sentences
    (the signature then says ``nrefs:var``). StudyError when counts differ or a sentence has no reference.
    """
    _check(hypotheses, references)
    streams = _streams(references)
    bleu, chrf = BLEU(force=True), CHRF()
    return {
        "bleu": float(bleu.corpus_score(hypotheses, streams).score),
        "bleu_signature": str(bleu.get_signature()),
        "chrf": float(chrf.corpus_score(hypotheses, streams).score),
        "chrf_signature": str(chrf.get_signature()),
    }


def sentence_bleu_statistics(hypotheses: list[str], references: list[list[str]]) -> NDArray[np.int64]:
    """Return each sentence's share of corpus BLEU, (n, 10): 4 n-gram matches, 4 totals, both lengths.

    The sums over sentences are exactly what sacreBLEU's corpus score is made of. StudyError as in `corpus_scores`.
    """
    _check(hypotheses, references)
    bleu = BLEU(force=True, effective_order=True)  # only the score depends on the order; without it every call warns
    statistics = np.empty((len(hypotheses), STATISTICS), dtype=np.int64)
    for row, hypothesis, lines in zip(statistics, hypotheses, references, strict=True):
        score = bleu.sentence_score(hypothesis, lines)
        row[:] = [*score.counts, *score.totals, score.sys_len, score.ref_len]
    return statistics


def bleu_from_statistics(statistics: NDArray[Any]) -> NDArray[np.float64]:
    """Return the BLEU, 0 to 100, of summed statistics (..., 10), as (...).

    Equals sacreBLEU's corpus score with exponential smoothing (method 3 of Chen and Cherry, WMT 2014): the k-th order
    without a match counts 1 / 2^k matches. No match at all, or an order without n-grams, is 0.
    """
    statistics = np.asarray(statistics, dtype=np.float64)
    matches, totals = statistics[..., :ORDERS], statistics[..., ORDERS : 2 * ORDERS]
    hypothesis_length, reference_length = statistics[..., -2], statistics[..., -1]
    unmatched = np.cumsum(matches == 0, axis=-1)
    smoothed = np.where(matches == 0, 0.5**unmatched, matches)
    defined = (totals > 0).all(axis=-1) & (matches > 0).any(axis=-1)
    log_precision = np.log(smoothed / np.maximum(totals, 1)).mean(axis=-1)
    brevity = np.minimum(0.0, 1 - reference_length / np.maximum(hypothesis_length, 1))
    return np.where(defined, 100 * np.exp(log_precision + brevity), 0.0)
