"""Study files: every committed one loads, and every mistake is one line with the file, the key and the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.calibration import Calibration
from pipeline.errors import StudyError
from pipeline.expansion import expand, planned, teacher_candidates
from pipeline.study import load_study

CONFIGS = sorted(Path("configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_committed_study_loads_under_its_own_name(path: Path) -> None:
    study = load_study(path)
    assert study.name == path.stem
    assert expand(study, Calibration.load(study.name))["report"][study.name]["runs"]


def _changed(tmp_path: Path, *path: str | int, value: Any) -> Path:
    data = yaml.safe_load(Path("configs/smoke.yaml").read_text(encoding="utf-8"))
    inner = data
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("trainning",), {}, r"unknown key 'trainning'; did you mean 'training'\?"),
        (("training", "droput"), 0.1, r"unknown key 'training\.droput'; did you mean 'dropout'\?"),
        (("corpus", "pakage"), "x", r"unknown key 'corpus\.pakage'; did you mean 'package'\?"),
        (("budgets", "seconds"), "0 s", "must be a positive amount"),
        (("budgets", "seconds"), "300", "has no unit; add one of flop, s, tok, step"),
        (("budgets", "seconds"), "3e9 flop", "which is not in seconds"),
        (("sizes", 0), {"d_model": 48, "num_layers": 1, "num_heads": 5}, "num_heads 5 does not divide d_model 48"),
        (("sizes", 0), {"d_model": 32, "num_layers": 1}, "size w32x1 is listed twice"),
        (("quantize", "bits"), [9], "9 bits: a number from 2 to 8"),
        (("prune", "sparsities"), [1.5], "sparsity 1.5 must lie between 0 and 1"),
        (("distill", "students"), ["w17x1"], r"no size 'w17x1' in the grid; did you mean 'w16x1'"),
        (("distill", "methods"), ["wrod"], "distill.methods"),
        (("task",), "parsing", "task"),
        (("corpus", "max_tokens"), 300, "corpus.max_tokens"),
        (("training", "learning_rate"), {"tuned": {16: 0.01}, "mup_base_width": 8}, "not among the tuned widths"),
        (("training", "learning_rate"), {"tuned": {16: 0.01, 32: 0.01}, "mup_base_width": 16}, "leave the others out"),
        (
            ("training", "learning_rate"),
            {"tuned": {16: 0.01}, "mup_base_width": 16},
            "size w16x1 has 16 columns a head",
        ),
        (("prune", "sparsities"), [0.501], "whole percents"),
        (("prune", "sparsities"), [0.5, 0.5], "listed twice"),
        (("prune", "quantize_bits"), [16], "16 bits: a number from 2 to 8"),
        (("budgets",), {"flops": "1e11 flop"}, r"budgets\.seconds is needed"),
        (("distill", "sequence_sentences"), 0, "sequence needs sequence_sentences"),
        (("distill", "seeds"), 2, "size w16x1 has 1 plain runs"),
        (("corpus", "sha256"), None, "also needs sha256"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    tmp_path: Path, path: tuple[str | int, ...], value: Any, says: str
) -> None:
    file = _changed(tmp_path, *path, value=value)
    with pytest.raises(StudyError, match=says) as raised:
        load_study(file)
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"), [("a: [1", "not valid YAML"), ("- 1", "a mapping of sections"), (None, "no such study file")]
)
def test_what_is_no_study_at_all(tmp_path: Path, text: str | None, says: str) -> None:
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match=says):
        load_study(file)


def test_the_expansion_has_every_run_and_teachers_are_larger_than_all_students() -> None:
    study = load_study(Path("configs/default.yaml"))
    entries = expand(study, Calibration.load(study.name))
    runs = planned(study)
    assert len(entries["pretrain"]) == len(runs.runs) == sum(size.seeds for size in study.sizes)
    for kind in ("quantize", "prune", "evaluate"):
        assert list(entries[kind]) == list(entries["pretrain"])
    assert entries["report"]["default"]["runs"] == list(entries["pretrain"])
    assert all("." not in key for kind in entries.values() for key in kind)
    students = [study.size(key) for key in study.distill.students]
    assert teacher_candidates(study)
    assert min(size.d_model for size in teacher_candidates(study)) >= max(size.d_model for size in students)


def test_the_default_study_is_as_wide_and_deep_as_it_must_be() -> None:
    study = load_study(Path("configs/default.yaml"))
    widths = {size.d_model: size.seeds for size in study.sizes if size.num_layers == 2}
    assert sum(seeds >= 3 for seeds in widths.values()) >= 4
    assert len({size.num_layers for size in study.sizes}) >= 3
    assert study.report.limits >= 8
