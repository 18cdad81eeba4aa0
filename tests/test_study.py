"""Study files: every committed one loads, and every mistake is one line with the file, the key and the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.calibration import Calibration
from pipeline.errors import StudyError
from pipeline.expansion import expand, families_of, planned, teacher_candidates
from pipeline.expected import expected_models
from pipeline.size import SizeSpec
from pipeline.study import Distill, StudentSpec, load_study

CONFIGS = sorted(Path("configs").glob("*.yaml"))
RTN = ("recipes", "rtn")


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
        (("engines", "compared"), ["ctranslate2-in8"], r"no engine 'ctranslate2-in8'; did you mean 'ctranslate2-int8'"),
        (("engines", "compared"), ["torch", "torch"], "an engine is listed twice"),
        (("engines", "compared_sizes"), ["w17x1"], r"no size 'w17x1' in the grid; did you mean 'w16x1'"),
        (("sizes", 0), {"d_model": 48, "num_layers": 1, "num_heads": 5}, "num_heads 5 does not divide d_model 48"),
        (("sizes", 0), {"d_model": 32, "num_layers": 1}, "size w32x1 is listed twice"),
        ((*RTN, "recipes", "q4"), [{"method": "uniform", "bits": 9}], "9 bits: a whole number from 2 to 8"),
        ((*RTN, "recipes", "q4"), [{"method": "magnitude", "sparsity": 1.5}], "sparsity: Input should be less than 1"),
        ((*RTN, "recipes", "q4"), [{"method": "unifrom", "bits": 4}], "no method 'unifrom'; did you mean 'uniform'"),
        ((*RTN, "recipes", "q4"), [{"method": "uniform", "bits": 4, "bit": 3}], "uniform has no setting 'bit'"),
        ((*RTN, "recipes", "q-4"), [], "names are small letters and digits"),
        ((*RTN, "recipes", "fp32"), [], "fp32 is taken"),
        ((*RTN, "recipes", "p50"), [{"method": "magnitude", "sparsity": 0.5}], "make two families of them"),
        ((*RTN, "recipes", "gptq3"), [{"method": "gptq", "bits": 3}], "gptq3 is listed twice"),
        (("recipes", "magnitude", "sizes"), ["w17x1"], r"no size 'w17x1' in the grid; did you mean 'w16x1'"),
        ((*RTN, "matches"), ["tokens"], "recipes.rtn.matches"),
        ((*RTN, "seeds"), 1, "students: true applies a family to every student"),
        (
            ("sizes", 0),
            {"d_model": 64, "num_layers": 1, "head_dim": 16},
            "heads that do not fill the width come from pruning",
        ),
        ((*RTN, "students"), False, "no family has `students: true`"),
        (("recipes", "qat", "branch"), "full", "recipe qat2: it trains, and the full branch has left nothing"),
        (
            ("recipes", "qat"),
            {"recipes": {"qat2": [{"method": "qat", "bits": 2}]}, "students": True},
            "recipe qat2: it trains, and a student has spent its whole budget",
        ),
        (("recipes", "r-t-n"), {"recipes": {"x": []}}, "family 'r-t-n': names are small letters and digits"),
        (
            ("recipes", "structured", "recipes", "ffn30"),
            [{"method": "ffn", "fraction": 0.3}],
            "recipes.structured.ffn30: ffn 0.3",
        ),
        (
            ("distill", "students"),
            [{"size": "w17x1", "method": "word"}],
            r"no size 'w17x1' in the grid; did you mean 'w16x1'",
        ),
        (("distill", "students"), [{"size": "w16x1", "method": "wrod"}], "distill.students.0.method"),
        (("distill", "students"), [{"size": "w16x1", "method": "word"}] * 2, "w16x1-word is listed twice"),
        (("task",), "parsing", "task"),
        (("corpus", "max_tokens"), 300, "corpus.max_tokens"),
        (("training", "learning_rate"), {"tuned": {16: 0.01}, "mup_base_width": 8}, "not among the tuned widths"),
        (("training", "learning_rate"), {"tuned": {16: 0.01, 32: 0.01}, "mup_base_width": 16}, "leave the others out"),
        (
            ("training", "learning_rate"),
            {"tuned": {16: 0.01}, "mup_base_width": 16},
            "size w16x1 has 16 columns a head",
        ),
        (("budgets",), {"flops": "1e11 flop"}, r"budgets\.seconds is needed"),
        (("distill", "sequence_sentences"), 0, "sequence needs sequence_sentences"),
        (("distill", "students"), [{"size": "w16x1", "method": "word", "seeds": 2}], "size w16x1 has 1 plain runs"),
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
    assert list(entries["evaluate"]) == list(entries["pretrain"])
    made = {(entry["run"], entry["family"]) for kind in ("quantize", "prune") for entry in entries[kind].values()}
    expected = {(key, name) for key, size, seed in runs.runs for name in families_of(study, size, seed)} | {
        (key, name) for key, *_ in runs.students for name, family in study.recipes.items() if family.students
    }
    assert made == expected
    assert entries["report"]["default"]["runs"] == list(entries["pretrain"])
    assert all("." not in key for kind in entries.values() for key in kind)
    students = [study.size(key) for key in study.distill.sizes]
    assert teacher_candidates(study)
    assert min(size.d_model for size in teacher_candidates(study)) >= max(size.d_model for size in students)


def test_a_recipe_is_told_to_later_stages_by_what_it_does_and_where_it_applies() -> None:
    study = load_study(Path("configs/smoke.yaml"))
    report = expand(study, Calibration.load(study.name))["report"]["smoke"]
    assert report["recipes"]["ffn50kd"] == {
        "family": "structured", "method": "prune", "kind": "ffn+distill", "branch": "early", "sizes": ["w32x1"],
        "matches": ["seconds"], "seeds": 1, "curve": False, "students": False,
    }  # fmt: skip
    assert [report["recipes"][name]["branch"] for name in ("q4", "qat2", "p50q4")] == ["full", "early", "early"]
    assert report["recipes"]["p50q4"]["kind"] == "magnitude+finetune+uniform"


def test_the_engines_and_the_time_stage_are_told_where_every_model_lies() -> None:
    study = load_study(Path("configs/smoke.yaml"))
    entries = expand(study, Calibration.load(study.name))
    for kind in ("engines", "time"):
        entry = entries[kind]["smoke"]
        assert expected_models(entry) == expected_models(entries["report"]["smoke"])
        assert entry["beam"] == study.translate.beam
    assert entries["engines"]["smoke"]["compared_sizes"] == ["w16x1"]
    assert "compared" not in entries["time"]["smoke"]  # other engines, the same latencies


def test_the_default_study_is_as_wide_and_deep_as_it_must_be() -> None:
    study = load_study(Path("configs/default.yaml"))
    widths = {size.d_model: size.seeds for size in study.sizes if size.num_layers == 2}
    assert sum(seeds >= 3 for seeds in widths.values()) >= 4
    assert len({size.num_layers for size in study.sizes}) >= 3
    assert study.report.limits >= 8


@pytest.mark.parametrize(
    ("large", "small", "fault"),
    [
        ({"d_model": 64, "num_layers": 2}, {"d_model": 32, "num_layers": 1}, None),
        ({"d_model": 64, "num_layers": 1}, {"d_model": 32, "num_layers": 2}, "it has more num_layers"),
        ({"d_model": 64, "num_layers": 2, "ffn_dim": 64}, {"d_model": 32, "num_layers": 1}, "it has more ffn_dim"),
        ({"d_model": 64, "num_layers": 1}, {"d_model": 16, "num_layers": 1}, "their heads differ in columns"),
    ],
)
def test_a_student_begins_only_from_a_size_that_holds_its_shape(
    large: dict[str, int], small: dict[str, int], fault: str | None
) -> None:
    sizes = [SizeSpec(**small), SizeSpec(**large)]
    students = [StudentSpec(size=sizes[0].key, method="word", init="teacher")]
    study = load_study("configs/smoke.yaml").model_copy(update={"sizes": sizes, "distill": Distill(students=students)})
    if fault is None:
        assert teacher_candidates(study) == sizes[1:]
    else:
        with pytest.raises(StudyError, match=f"student {sizes[0].key}-wordinit cannot be cut out of .*: {fault}"):
            teacher_candidates(study)
