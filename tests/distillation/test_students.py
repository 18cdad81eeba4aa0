"""Students of a real tiny teacher: every teacher pass and every decoded sentence is paid from the student's own budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.budget import Budget, Ledger
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.distillation.sequences import read_teacher, sequence_targets, write_translations
from pipeline.distillation.students import distill
from pipeline.distillation.teachers import best_teacher
from pipeline.errors import StudyError
from pipeline.evaluation.losses import validation_loss
from pipeline.evaluation.translation import decode_lines
from pipeline.files import write_json
from pipeline.models.checkpoint import read_run
from tests.runs import DISTILL, pretrained

TEACHER = "tiny-w32x1-s0"


@pytest.fixture(scope="module")
def folder(corpus: PreparedCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained teacher under pretrain/, and its translations of 20 training sentences under translations/."""
    folder = tmp_path_factory.mktemp("teacher")
    pretrained(corpus, folder, key=TEACHER, size="w32x1", d_model=32, ffn_dim=128)
    search = {"beam": 2, "length_penalty": 1.0, "max_length": 30}
    entry = {"study": "tiny", "sentences": 20, "seconds_per_sentence": {"w32x1": 0.1}, **search}
    write_translations(
        entry,
        teacher=TEACHER,
        teacher_path=folder / "pretrain" / TEACHER / "seconds",
        corpus=corpus,
        out=folder / "translations",
        decode=lambda path, lines: decode_lines(path, lines, tokenizer=corpus.tokenizer(), search=search),
    )
    return folder


def _distill(corpus: PreparedCorpus, folder: Path, out: Path, **changes: Any) -> dict[str, Any]:
    distill(
        DISTILL | changes,
        key="student",
        pretrained=folder / "pretrain",
        translations=folder / "translations",
        corpus=corpus,
        out=out,
        work=out.with_name("work"),
        validate=validation_loss(corpus),
    )
    return read_run(out / "seconds")


def test_word_level_pays_the_teachers_passes(corpus: PreparedCorpus, folder: Path, tmp_path: Path) -> None:
    ledger = Ledger.from_dict(_distill(corpus, folder, tmp_path / "out", method="word")["ledger"])
    assert ledger.of("train").steps == 50  # 40 s at 0.5 s for the update and 0.3 s for the teacher
    assert ledger.of("teacher").seconds == pytest.approx(50 * 0.3)
    assert ledger.of("teacher").flops > 0
    assert ledger.total.seconds == pytest.approx(40)


def test_a_teacher_of_the_first_steps_alone_leaves_money_for_more(
    corpus: PreparedCorpus, folder: Path, tmp_path: Path
) -> None:
    run = _distill(corpus, folder, tmp_path / "out", method="word", teacher_fraction=0.25)
    ledger = Ledger.from_dict(run["ledger"])
    assert ledger.of("teacher").seconds == pytest.approx(20 * 0.3)  # a quarter of a plain run's 80 steps
    assert ledger.of("train").steps == 68
    assert Budget.parse("40 s").admits(ledger.total)


def test_sequence_level_pays_for_decoding_before_its_first_step(
    corpus: PreparedCorpus, folder: Path, tmp_path: Path
) -> None:
    run = _distill(corpus, folder, tmp_path / "out", method="sequence", teacher_seconds_per_step={})
    ledger = Ledger.from_dict(run["ledger"])
    assert ledger.of("decode").seconds == pytest.approx(20 * 0.1)
    assert ledger.of("decode").flops > 0
    assert ledger.of("train").steps == (40 - 2) / 0.5
    assert run["parent_id"] == f"{TEACHER}-seconds-fp32"
    assert run["teacher_training"]["train"]["seconds"] == pytest.approx(40)


def test_the_teachers_lines_replace_the_references_they_belong_to(corpus: PreparedCorpus, folder: Path) -> None:
    targets = sequence_targets(corpus, folder / "translations")
    indices = np.load(folder / "translations" / "indices.npy").tolist()
    lines = (folder / "translations" / "hypotheses.txt").read_text(encoding="utf-8").splitlines()
    sources = (folder / "translations" / "source.txt").read_text(encoding="utf-8").splitlines()
    train, tokenizer = corpus.split("train"), corpus.tokenizer()
    assert len(targets) == len(train)
    assert len(indices) == len(lines) == read_teacher(folder / "translations")["sentences"] == 20
    for index, line, source in zip(indices, lines, sources, strict=True):
        assert tokenizer.decode(targets[index]).strip() == line
        assert train.source_lines()[index] == source
    others = sorted(set(range(len(train))) - set(indices))
    assert all(np.array_equal(targets[i], train.target[i]) for i in others)


def test_a_missing_translation_is_noticed(corpus: PreparedCorpus, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "hypotheses.txt").write_text("une ligne\n", encoding="utf-8")
    np.save(tmp_path / "indices.npy", np.array([0, 1]))
    with pytest.raises(StudyError, match="1 translations for 2 sentences"):
        sequence_targets(corpus, tmp_path)


def test_the_teacher_is_the_best_that_finished(tmp_path: Path) -> None:
    for key, loss in (("a", 2.0), ("b", 1.5), ("c", None)):
        write_json(tmp_path / key / "metrics.json", {"seconds": {"status": "ok", "valid_loss": loss}})
    assert best_teacher(["a", "b", "c"], pretrained=tmp_path) == "b"
    with pytest.raises(StudyError, match="no one can teach"):
        best_teacher(["c"], pretrained=tmp_path)


def test_an_uncalibrated_teacher_is_refused(corpus: PreparedCorpus, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="w16x1 student of w32x1 is not calibrated"):
        _distill(corpus, folder, tmp_path / "out", method="word", teacher_seconds_per_step={"w32x1": None})
