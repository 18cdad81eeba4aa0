"""What models and engines answered to the test sentences: translations, or predicted classes; and what they are scored by."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.evaluation.accuracy import accuracy_from_statistics, accuracy_statistics
from pipeline.evaluation.scores import bleu_from_statistics, sentence_bleu_statistics
from pipeline.files import read_json


class Answers(Protocol):
    """The answers of every model of a study."""

    components: NDArray[np.int64]
    """Component (n,) of each test sentence."""

    def of_model(self, run_id: str) -> NDArray[Any]:
        """Return statistics (n, k) of a model's answers; StudyError where they are missing or too few."""

    def of_engine(self, run_id: str, engine: str) -> NDArray[Any]:
        """Return statistics (n, k) of what an engine put out for a model; StudyError likewise."""

    def score(self, statistics: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn summed statistics (..., k) into scores (...)."""


def sentence_arrays(artifacts: Path, run_id: str, *names: str) -> list[NDArray[Any]]:
    """Return what the evaluate stage wrote of a model's sentences, arrays (n,) by name; StudyError without them."""
    path = artifacts / "evaluate" / run_id.rsplit("-", 2)[0] / "sentences.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[f"{run_id}/{name}"] for name in names]
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(f"{path}: no losses of {run_id} in it ({error}); run the evaluate stage again") from None


def _lines(path: Path, count: int, *, stage: str) -> list[str]:
    if not path.exists():
        raise StudyError(f"{path}: no such file; run the {stage} stage again")
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    if len(lines) != count:
        raise StudyError(f"{path}: {len(lines)} lines for {count} test sentences; run {stage} again")
    return lines


class Translations:
    """Hypotheses, scored by BLEU."""

    def __init__(self, artifacts: Path) -> None:
        """Open the references under artifacts/<study>; StudyError when a file is missing."""
        corpus = artifacts / "corpus"
        self._artifacts = artifacts
        self._references: list[list[str]] = read_json(corpus / "test-references.json")
        path = corpus / "test-components.npy"
        if not path.exists():
            raise StudyError(f"{path}: no such file; run the prepare stage")
        self.components = np.load(path, allow_pickle=False)

    def of_model(self, run_id: str) -> NDArray[Any]:
        return self._statistics(self._artifacts / "translate" / "test" / f"{run_id}.txt", stage="translate")

    def of_engine(self, run_id: str, engine: str) -> NDArray[Any]:
        return self._statistics(self._artifacts / "engines" / f"{run_id}.{engine}.txt", stage="engines")

    def score(self, statistics: NDArray[np.float64]) -> NDArray[np.float64]:
        return bleu_from_statistics(statistics)

    def _statistics(self, path: Path, *, stage: str) -> NDArray[Any]:
        return sentence_bleu_statistics(_lines(path, len(self._references), stage=stage), self._references)


class Classes:
    """Predicted classes, scored by accuracy in percent."""

    def __init__(self, artifacts: Path) -> None:
        """Open the labels under artifacts/<study>; StudyError when a file is missing."""
        split = PreparedCorpus.open_task(artifacts / "corpus", "classification").sentences("test")
        self._artifacts = artifacts
        self._labels = split.labels
        self.components = split.components()

    def of_model(self, run_id: str) -> NDArray[Any]:
        (correct,) = sentence_arrays(self._artifacts, run_id, "test_correct")
        return accuracy_statistics(correct)

    def of_engine(self, run_id: str, engine: str) -> NDArray[Any]:
        path = self._artifacts / "engines" / f"{run_id}.{engine}.txt"
        lines = _lines(path, len(self._labels), stage="engines")
        try:
            return accuracy_statistics(np.array([int(line) for line in lines]) == self._labels)
        except ValueError as error:
            raise StudyError(f"{path}: not one class a line ({error}); run engines again") from None

    def score(self, statistics: NDArray[np.float64]) -> NDArray[np.float64]:
        return accuracy_from_statistics(statistics)
