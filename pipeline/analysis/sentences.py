"""Scores of resampled test sets: the same draws of components for every model, so that differences are paired."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StudyError
from pipeline.evaluation.resampling import component_draws, loss_from_statistics, loss_statistics, resampled_scores
from pipeline.evaluation.scores import bleu_from_statistics, sentence_bleu_statistics
from pipeline.files import read_json

DRAWS_SEED = 0


class TestSentences:
    """A study's test set with what every model did on each of its sentences; answers are kept."""

    __test__ = False  # not a test case, in spite of the name

    def __init__(self, *, artifacts: Path, resamples: int) -> None:
        """Open the test set under artifacts/<study>; StudyError when a file is missing."""
        corpus = artifacts / "corpus"
        self._artifacts = artifacts
        self._references: list[list[str]] = read_json(corpus / "test-references.json")
        path = corpus / "test-components.npy"
        if not path.exists():
            raise StudyError(f"{path}: no such file; run the prepare stage")
        self._components = np.load(path, allow_pickle=False)
        self._draws = component_draws(self._components, resamples, DRAWS_SEED)
        self.loss_draws = functools.cache(self._loss_draws)
        self.quality_draws = functools.cache(self._quality_draws)
        self.engine_draws = functools.cache(self._engine_draws)

    @property
    def components(self) -> int:
        """How many components the test set has."""
        return int(self._draws.shape[1])

    def _loss_draws(self, run_id: str) -> NDArray[np.float64]:
        """Return a model's mean loss a token on every draw, (resamples,), in nats."""
        path = self._artifacts / "evaluate" / run_id.rsplit("-", 2)[0] / "sentences.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                nll, tokens = arrays[f"{run_id}/test_nll"], arrays[f"{run_id}/test_tokens"]
        except (OSError, ValueError, KeyError) as error:
            raise StudyError(f"{path}: no losses of {run_id} in it ({error}); run the evaluate stage again") from None
        return self._scores(loss_statistics(nll, tokens), loss_from_statistics)

    def _quality_draws(self, run_id: str) -> NDArray[np.float64]:
        """Return a model's BLEU on every draw, (resamples,)."""
        return self._bleu(self._artifacts / "translate" / "test" / f"{run_id}.txt", stage="translate")

    def _engine_draws(self, run_id: str, engine: str) -> NDArray[np.float64]:
        """Return the BLEU of what an engine put out, on every draw, (resamples,)."""
        return self._bleu(self._artifacts / "engines" / f"{run_id}.{engine}.txt", stage="engines")

    def _bleu(self, path: Path, *, stage: str) -> NDArray[np.float64]:
        if not path.exists():
            raise StudyError(f"{path}: no such file; run the {stage} stage again")
        hypotheses = path.read_text(encoding="utf-8").split("\n")[:-1]
        if len(hypotheses) != len(self._references):
            raise StudyError(
                f"{path}: {len(hypotheses)} lines for {len(self._references)} test sentences; run {stage} again"
            )
        return self._scores(sentence_bleu_statistics(hypotheses, self._references), bleu_from_statistics)

    def _scores(self, statistics: NDArray[Any], score: Any) -> NDArray[np.float64]:
        return resampled_scores(statistics, self._components, self._draws, score)
