"""Scores of resampled test sets: the same draws of components for every model, so that differences are paired."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.answers import Answers, Classes, Translations, sentence_arrays
from pipeline.evaluation.resampling import component_draws, loss_from_statistics, loss_statistics, resampled_scores

DRAWS_SEED = 0
ANSWERS: dict[str, type[Translations] | type[Classes]] = {"translation": Translations, "classification": Classes}
"""How the answers of a task are read, by the entry's `task`."""


class TestSentences:
    """A study's test set with what every model did on each of its sentences; what was drawn is kept."""

    __test__ = False  # not a test case, in spite of the name

    def __init__(self, *, artifacts: Path, resamples: int, task: str = "translation") -> None:
        """Open the test set under artifacts/<study>; StudyError when a file is missing."""
        self._artifacts = artifacts
        self._answers: Answers = ANSWERS[task](artifacts)
        self._draws = component_draws(self._answers.components, resamples, DRAWS_SEED)
        self.loss_draws = functools.cache(self._loss_draws)
        self.quality_draws = functools.cache(self._quality_draws)
        self.engine_draws = functools.cache(self._engine_draws)

    @property
    def components(self) -> int:
        """How many components the test set has."""
        return int(self._draws.shape[1])

    def _loss_draws(self, run_id: str) -> NDArray[np.float64]:
        """Return a model's mean loss on every draw, (resamples,), in nats: a token of translations, a sentence of classes."""
        nll, tokens = sentence_arrays(self._artifacts, run_id, "test_nll", "test_tokens")
        return self._scores(loss_statistics(nll, tokens), loss_from_statistics)

    def _quality_draws(self, run_id: str) -> NDArray[np.float64]:
        """Return a model's quality on every draw, (resamples,)."""
        return self._scores(self._answers.of_model(run_id), self._answers.score)

    def _engine_draws(self, run_id: str, engine: str) -> NDArray[np.float64]:
        """Return the quality of what an engine put out, on every draw, (resamples,)."""
        return self._scores(self._answers.of_engine(run_id, engine), self._answers.score)

    def _scores(self, statistics: NDArray[Any], score: Any) -> NDArray[np.float64]:
        return resampled_scores(statistics, self._answers.components, self._draws, score)
