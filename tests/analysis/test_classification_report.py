"""The report of a masked-LM study: the same files, and nothing in them of what such a study has not."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest

pytest.importorskip("seaborn")

from pipeline.analysis.captions import CAPTIONS
from pipeline.analysis.report import OUTPUTS, read_finetunings, write_report
from pipeline.analysis.task_words import words_of
from pipeline.errors import StudyError
from tests.analysis.synthetic import report_entry
from tests.analysis.synthetic_classification import RECIPES, classification_entry, write_study

ENTRY = classification_entry(sizes=["w32x2", "w64x2", "w128x2", "w128x4"], resamples=100)
OF_TRANSLATION = re.compile(
    r"\bbleu|\bbeam|translat|hypothes|chrf|student|teacher|decoder|target token|reference token|2\+2|ctranslate",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), ENTRY)


@pytest.fixture(scope="module")
def results(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results") / "toy"
    line = write_report(ENTRY, artifacts=artifacts, out=out)
    assert line.startswith(f"{out}: 240 of 240 models; ")
    return out


@pytest.fixture(scope="module")
def verdict(results: Path) -> dict[str, Any]:
    return dict(json.loads((results / "verdict.json").read_text(encoding="utf-8")))


def shown(text: str) -> str:
    """Return what a page's reader sees, captions and figures' letters included."""
    text = re.sub(r"<(style|head)\b.*?</\1>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_the_files_are_those_of_every_study(results: Path) -> None:
    assert {path.name for path in results.iterdir()} == set(OUTPUTS)
    names = {path.stem for path in (results / "figures").iterdir()}
    assert names == set(CAPTIONS["classification"])
    assert {"equal_pretraining_loss", "what_pretraining_brought", "early_and_late"} < names
    assert "distillation" not in names


def test_the_verdict_has_the_form_of_every_verdict(results: Path, verdict: dict[str, Any]) -> None:
    jsonschema.validate(verdict, json.loads((results / "verdict.schema.json").read_text(encoding="utf-8")))
    assert (verdict["task"], verdict["quality_name"]) == ("classification", "accuracy")
    assert verdict["students"] == []
    assert verdict["students_claim"] is None
    assert verdict["thresholds"]["quality"] == 0.3


def test_the_page_speaks_of_what_the_study_has_and_of_nothing_else(results: Path) -> None:
    for name in ("report.html", "verdict.md"):
        text = shown((results / name).read_text(encoding="utf-8"))
        assert not OF_TRANSLATION.search(text), OF_TRANSLATION.findall(text)
        assert not re.search(r"\b(None|nan|NaN|Undefined)\b", text)
    page = shown((results / "report.html").read_text(encoding="utf-8"))
    for phrase in (
        "0.3 points of accuracy",
        "weights in ONNX Runtime as they are",
        "in nats a sentence",
        "which spends 0.15 B",
        "One decays at 0.70 B",
        "Recipe scratch : the same finetuning of random weights",
        "accuracy|n:400|boot:1000|seed:0",
        "What pretraining brought",
        "Finetuned from an equal pretraining loss",
        "Early and late branch",
        "Of the sizes of 2 layers",
        "Reviewers of made-up films.",
    ):
        assert phrase in page, phrase


def test_every_figure_is_on_the_page_once(results: Path) -> None:
    page = (results / "report.html").read_text(encoding="utf-8")
    for name in CAPTIONS["classification"]:
        assert page.count(f'<figure id="{name}">') == 1, name
    assert page.count("<svg") == len(CAPTIONS["classification"])
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_models_without_pretraining_are_rows_and_stand_in_no_ladder(results: Path, verdict: dict[str, Any]) -> None:
    runs = pd.read_parquet(results / "runs.parquet")
    scratch = runs[runs["recipe"] == "scratch"]
    assert len(scratch) == 4 * 3 * 2
    assert set(scratch["kind"]) == {"scratch"}
    assert set(scratch["method"]) == {"none"}
    elsewhere = {
        name: part for name, part in verdict.items() if name not in ("what_pretraining_brought", "first_study")
    }
    assert "scratch" not in re.sub(r'"(from_scratch|scratch)":', "", json.dumps(elsewhere))
    page = shown((results / "report.html").read_text(encoding="utf-8"))
    assert f"Every recipe: {len(RECIPES)}" in page
    assert "rows spent 254.2 to 299.0" in page  # not the 44.9 s of the controls


def test_accuracy_is_measured_for_every_row_and_draws_are_of_the_engines(
    results: Path, verdict: dict[str, Any]
) -> None:
    runs = pd.read_parquet(results / "runs.parquet").set_index("run_id")
    assert runs["quality"].notna().all()
    assert runs["chrf"].isna().all()
    first = verdict["latency"][0]["limits"][0]
    assert first["light"]["engine"] == "onnxruntime-int8"
    assert first["light"]["engine_quality"] != first["light"]["quality"]
    quality = runs.loc[first["light"]["run_ids"], "engine_quality"].mean()
    assert first["light"]["engine_quality"] == pytest.approx(quality)


def test_checks_find_what_the_world_holds(verdict: dict[str, Any]) -> None:
    """Accuracy follows from the pretraining loss alone, and pretraining helps every size."""
    (common,) = verdict["equal_pretraining_loss"]["common"]
    assert [line["size"] for line in common["sizes"]] == ["w64x2", "w128x2", "w128x4"]
    assert common["quality_spread"] < common["quality_seeds"]
    assert len(verdict["what_pretraining_brought"]) == 8
    assert all(line["quality"]["low"] > 0 < line["loss"]["low"] for line in verdict["what_pretraining_brought"])
    assert {(line["early"], line["late"]) for line in verdict["early_and_late"]} == {("early4", "q4"), ("early3", "q3")}
    assert all(line["seeds"] == 3 and line["low"] is not None for line in verdict["early_and_late"])
    answers = {one["claim"]: one["answer"] for one in verdict["first_study"]}
    assert answers["From an equal pretraining loss sizes finetune equally well"] == "not told apart"
    assert answers["Larger sizes reach a loss in fewer steps"] == "yes"


def test_a_study_without_controls_or_early_rows_still_has_its_page(tmp_path: Path) -> None:
    entry = classification_entry(sizes=["w64x2"], seeds=1, recipes=("q8", "q4"), resamples=100) | {"scratch": False}
    write_report(entry, artifacts=write_study(tmp_path, entry), out=tmp_path / "results")
    page = shown((tmp_path / "results" / "report.html").read_text(encoding="utf-8"))
    for sentence in (
        "No two sizes of this study differ in width alone.",
        "No loss is reached by the trunks of two sizes.",
        "is not known here.",
        "No size was finetuned without pretraining too.",
        "No recipe of this study does to an early branch",
    ):
        assert sentence in page
    assert "Without pretraining." not in page
    names = {path.stem for path in (tmp_path / "results" / "figures").iterdir()}
    nothing = {"loss_by_size", "time_to_loss", "what_pretraining_brought", "early_and_late"}
    assert names == set(CAPTIONS["classification"]) - nothing
    assert not [
        name for name in nothing if f'<figure id="{name}">' in (tmp_path / "results" / "report.html").read_text()
    ]


def test_finetunings_are_read_by_run_and_branch(artifacts: Path, tmp_path: Path) -> None:
    told = read_finetunings(ENTRY, artifacts)
    assert told is not None
    whole, early, scratch = (told["toy-w64x2-s1", f"flops{suffix}"] for suffix in ("", "-early", "-scratch"))
    assert early["pretrain_valid_loss"] > whole["pretrain_valid_loss"] > 4.4
    assert (scratch["pretrain_valid_loss"], scratch["steps"]) == (None, 100)
    assert read_finetunings(report_entry(), artifacts) is None
    shutil.copytree(artifacts / "evaluate", tmp_path / "evaluate")
    with pytest.raises(StudyError, match=r"metrics\.json: no such file"):
        read_finetunings(ENTRY, tmp_path)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(StudyError, match=r"no report is known for task 'clasification'.*'classification'"):
        words_of("clasification")
