"""Resampled test sets of both tasks: scores of draws, and what is said when a file is missing or wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.analysis.sentences import TestSentences
from pipeline.errors import StudyError
from pipeline.evaluation.scores import corpus_scores
from pipeline.files import read_json
from tests.analysis.synthetic import report_entry, write_artifacts
from tests.analysis.synthetic_classification import FLIPPED, classification_entry, write_study

SMALL = {"sizes": ["w64x2"], "seeds": 1, "recipes": ("q8",)}
RUN_ID = "toy-w64x2-s0-seconds-q8"


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of a classification study of one size."""
    return write_study(tmp_path_factory.mktemp("classified"), classification_entry(**SMALL))


def opened(artifacts: Path, *, resamples: int = 4000) -> TestSentences:
    return TestSentences(artifacts=artifacts, resamples=resamples, task="classification")


def rows(artifacts: Path) -> dict[str, dict[str, float]]:
    return {row["run_id"]: row for row in read_json(artifacts / "evaluate" / "toy-w64x2-s0" / "rows.json")}


def test_draws_of_accuracy_and_loss_surround_what_was_measured(classified: Path) -> None:
    sentences = opened(classified)
    row = rows(classified)[RUN_ID]
    draws = sentences.quality_draws(RUN_ID)
    assert draws.shape == (4000,)
    assert draws.mean() == pytest.approx(row["quality"], abs=0.2)
    assert 100 * (row["quality"] / 100 * (1 - row["quality"] / 100) / 400) ** 0.5 == pytest.approx(draws.std(), rel=0.4)
    assert sentences.loss_draws(RUN_ID).mean() == pytest.approx(row["test_loss"], abs=0.01)
    assert sentences.components < 400
    assert sentences.quality_draws(RUN_ID) is draws  # kept


def test_engines_are_scored_by_the_classes_that_they_put_out(classified: Path) -> None:
    sentences = opened(classified)
    own = sentences.engine_draws(RUN_ID, "onnxruntime-float32")
    assert np.array_equal(own, sentences.quality_draws(RUN_ID))
    other = sentences.engine_draws(RUN_ID, "onnxruntime-int8")
    assert 0 < abs(other.mean() - own.mean()) < 100 * (FLIPPED["onnxruntime-int8"] + 1) / 400


def test_what_is_drawn_for_one_model_is_drawn_for_every_model(classified: Path) -> None:
    """Paired: a model beside itself differs by nothing, and beside a like one by less than both vary."""
    sentences = opened(classified)
    fp32 = RUN_ID.replace("q8", "fp32")
    difference = sentences.quality_draws(RUN_ID) - sentences.quality_draws(fp32)
    assert difference.std() < 0.6 * sentences.quality_draws(fp32).std()


def test_translations_are_scored_by_bleu(tmp_path: Path) -> None:
    artifacts = write_artifacts(tmp_path, report_entry(**SMALL, students=[], plain_of_student={}))
    sentences = TestSentences(artifacts=artifacts, resamples=50)
    text = (artifacts / "translate" / "test" / f"{RUN_ID}.txt").read_text(encoding="utf-8").splitlines()
    bleu = corpus_scores(text, read_json(artifacts / "corpus" / "test-references.json"))["bleu"]
    assert sentences.quality_draws(RUN_ID).mean() == pytest.approx(bleu, abs=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "no such file; run the engines stage again"),
        (lambda path: path.write_text("1\n0\n"), "2 lines for 400 test sentences; run engines again"),
        (lambda path: path.write_text("positive\n" * 400), "not one class a line .*; run engines again"),
    ],
)
def test_wrong_predictions_are_named(
    classified: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    artifacts = tmp_path / "artifacts"
    shutil.copytree(classified, artifacts)
    change(artifacts / "engines" / f"{RUN_ID}.onnxruntime-int8.txt")
    with pytest.raises(StudyError, match=message):
        opened(artifacts, resamples=10).engine_draws(RUN_ID, "onnxruntime-int8")


def test_missing_arrays_and_labels_are_named(classified: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"sentences\.npz: no losses of toy-w64x2-s0-seconds-q9 in it"):
        opened(classified, resamples=10).quality_draws("toy-w64x2-s0-seconds-q9")
    artifacts = tmp_path / "artifacts"
    shutil.copytree(classified, artifacts)
    (artifacts / "corpus" / "sentences" / "test-labels.npy").unlink()
    with pytest.raises(StudyError, match=r"test-labels\.npy"):
        opened(artifacts, resamples=10)


def test_resampling_loads_no_torch() -> None:
    code = "import sys, pipeline.analysis.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
