"""Students of a real tiny teacher: every teacher pass and every decoded sentence is paid from the student's own budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.budget import Budget, Ledger
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.distillation.beginnings import initial_student
from pipeline.distillation.lessons import Lesson, lesson_of
from pipeline.distillation.losses import WordDistillation
from pipeline.distillation.sequences import read_teacher, sequence_targets, write_translations
from pipeline.distillation.students import distill
from pipeline.distillation.teachers import best_teacher
from pipeline.errors import StudyError
from pipeline.evaluation.losses import validation_loss
from pipeline.evaluation.translation import decode_lines
from pipeline.files import read_json, write_json
from pipeline.models.checkpoint import load_dense, read_run
from tests.runs import DISTILL, assert_same, pretrained

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
    entry = DISTILL | changes
    distill(
        entry | {"teaching": entry["method"] + ("init" if entry["init"] == "teacher" else "")},
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


def test_both_levels_pay_for_decoding_and_for_the_teachers_passes(
    corpus: PreparedCorpus, folder: Path, tmp_path: Path
) -> None:
    run = _distill(corpus, folder, tmp_path / "out", method="both")
    ledger = Ledger.from_dict(run["ledger"])
    assert ledger.of("decode").seconds == pytest.approx(20 * 0.1)
    assert ledger.of("train").steps == 47  # (40 - 2) s at 0.5 s for the update and 0.3 s for the teacher
    assert ledger.of("teacher").seconds == pytest.approx(47 * 0.3)
    assert Budget.parse("40 s").admits(ledger.total)
    assert (run["config_id"], run["recipe"], run["method"]) == ("w16x1-both/fp32", "fp32", "distill")
    assert run["entry"]["teaching"] == "both"
    assert read_json(tmp_path / "out" / "metrics.json")["seconds"]["status"] == "ok"


def test_both_levels_teach_on_the_teachers_own_lines(corpus: PreparedCorpus, folder: Path) -> None:
    def lesson(method: str) -> Lesson:
        return lesson_of(
            DISTILL | {"method": method},
            teacher=folder / "pretrain" / TEACHER / "seconds",
            translations=folder / "translations",
            corpus=corpus,
            budget=Budget.parse("40 s"),
            precision="fp32",
        )

    word, sequence, both = (lesson(method) for method in ("word", "sequence", "both"))
    assert isinstance(both.objective, WordDistillation)
    assert isinstance(word.objective, WordDistillation)
    assert not isinstance(sequence.objective, WordDistillation)
    expected = sequence_targets(corpus, folder / "translations")
    assert word.targets is None
    for taught in (sequence, both):
        assert taught.targets is not None
        assert all(np.array_equal(taught.targets[i], expected[i]) for i in range(len(expected)))
    assert both.paid.total.seconds == sequence.paid.total.seconds > word.paid.total.seconds == 0


def test_a_student_cut_out_of_its_teacher_begins_lower_and_stays_reproducible(
    corpus: PreparedCorpus, folder: Path, tmp_path: Path
) -> None:
    shape = {"size": "w32x1", "d_model": 32, "num_layers": 1, "num_heads": 1, "ffn_dim": 64}
    short = {"method": "sequence", "budget": "7 s", "warmup_steps": 2}  # 10 steps after the decoding
    losses = {}
    for name, init in (("fresh", "random"), ("cut", "teacher"), ("again", "teacher")):
        run = _distill(corpus, folder, tmp_path / name / "out", **short, **shape, init=init)
        losses[name] = read_json(tmp_path / name / "out" / "metrics.json")["seconds"]["valid_loss"]
    assert run["config_id"] == "w32x1-sequenceinit/fp32"
    assert run["parent_id"] == f"{TEACHER}-seconds-fp32"
    assert Ledger.from_dict(run["ledger"]).of("train").steps == 10
    assert losses["cut"] < losses["fresh"] - 0.5
    assert_same(tmp_path / "again" / "out", tmp_path / "cut" / "out")


def test_a_cut_out_student_has_its_own_dropout_and_no_initial_scale_of_mup(
    corpus: PreparedCorpus, folder: Path
) -> None:
    shape = {"size": "w32x1", "d_model": 32, "num_layers": 1, "num_heads": 1, "ffn_dim": 128}
    teacher = folder / "pretrain" / TEACHER / "seconds"
    entry = DISTILL | shape | {"init": "teacher", "mup_base_width": 8, "dropout": 0.25}
    student = initial_student(entry, teacher=teacher, vocab_size=corpus.vocab_size)
    assert student.config.dropout == student.model.decoder.layers[0].dropout == 0.25
    for name, weight in load_dense(teacher).state_dict().items():
        assert torch.equal(student.state_dict()[name], weight), name
    drawn = torch.rand(3)
    initial_student(entry, teacher=teacher, vocab_size=corpus.vocab_size)
    assert torch.equal(torch.rand(3), drawn)


def test_a_student_larger_than_its_teacher_is_refused(corpus: PreparedCorpus, folder: Path, tmp_path: Path) -> None:
    shape = {"size": "w32x2", "d_model": 32, "num_layers": 2, "num_heads": 1, "ffn_dim": 128}
    with pytest.raises(StudyError, match=r"num_layers would grow from 1 .* to 2"):
        _distill(corpus, folder, tmp_path / "out", method="sequence", init="teacher", **shape)
    assert not (tmp_path / "out").exists()


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
