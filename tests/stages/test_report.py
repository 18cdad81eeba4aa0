"""The report stage on a synthetic study: whole outputs, the same bytes twice, one line on a fault."""

from __future__ import annotations

import html
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import stages.report
from pipeline.analysis.engines_table import COLUMNS
from pipeline.analysis.fronts import AXES
from pipeline.analysis.measures import Draws
from pipeline.analysis.report import OUTPUTS, read_curves, read_engines, read_results, write_report
from pipeline.analysis.sentences import TestSentences
from pipeline.analysis.verdict import build_verdict
from pipeline.errors import StudyError
from pipeline.evaluation.scores import corpus_scores
from stages.entry import run
from tests.analysis.synthetic import report_entry, write_artifacts

ENTRY = report_entry(sizes=["w32x2", "w64x2", "w128x2"], recipes=["q8", "q4", "p50", "p90"], resamples=100)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with artifacts/toy in it."""
    root = tmp_path_factory.mktemp("study")
    write_artifacts(root, ENTRY)
    return root


@pytest.fixture(scope="module")
def results(study: Path) -> Path:
    out = study / "results" / "toy"
    line = write_report(ENTRY, artifacts=study / "artifacts" / "toy", out=out)
    assert line.startswith(f"{out}: 98 of 98 models; At equal device seconds")
    assert "\n" not in line
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_everything_is_written(results: Path) -> None:
    assert {path.name for path in results.iterdir()} == set(OUTPUTS)
    figures = list((results / "figures").iterdir())
    assert {path.suffix for path in figures} == {".svg", ".png"}
    assert len(figures) == 24
    assert not [path for path in figures if path.stem == "early_and_late"]  # there is nothing to draw of it
    assert all(path.stat().st_size > 1000 for path in figures)
    assert not [path for path in results.parent.iterdir() if path != results]


def test_the_table_is_the_same_in_both_forms(results: Path) -> None:
    parquet, csv = pd.read_parquet(results / "runs.parquet"), pd.read_csv(results / "runs.csv")
    assert list(parquet.columns) == list(csv.columns)
    assert len(parquet) == len(csv) == 3 * 3 * 2 * 5 + 8
    assert parquet["valid_loss"].to_numpy() == pytest.approx(csv["valid_loss"].to_numpy())
    assert parquet["latency_ms_p50"].notna().sum() == 3 * 2 * 5 + 4  # the first seed of every configuration
    assert (parquet["engine_quality"].notna() == (parquet["status"] == "ok")).all()


def test_the_engines_have_their_table(results: Path) -> None:
    engines = pd.read_csv(results / "engines.csv")
    assert list(engines.columns) == list(COLUMNS)
    assert not engines.duplicated(["run_id", "engine", "threads", "batch"]).any()
    assert engines["engine"].nunique() == 6
    timed = engines[engines["latency_ms_p50"].notna()]
    assert set(timed.loc[timed["latency_ms_p95"].isna(), "batch"]) == {32}  # too few batches for one


def test_latency_ladders_are_of_what_the_deployed_engines_put_out(study: Path, results: Path) -> None:
    """Draws of the weights' translations, or of another engine of the same model, give other intervals."""
    artifacts = study / "artifacts" / "toy"
    frame, sentences = read_results(ENTRY, artifacts), TestSentences(artifacts=artifacts, resamples=ENTRY["resamples"])
    quality = frame.set_index("run_id")["engine_quality"]

    def deployed(run_id: str) -> np.ndarray:
        return sentences.engine_draws(
            run_id, "ctranslate2-int8" if run_id[-2:] in ("q8", "q4") else "ctranslate2-float32"
        )

    def of_another(run_id: str) -> np.ndarray:
        elsewhere = artifacts / "engines" / f"{run_id}.onnxruntime-int8.txt"
        return sentences.engine_draws(run_id, "onnxruntime-int8") if elsewhere.exists() else deployed(run_id)

    def intervals(draws: Draws) -> list[tuple[float, float]]:
        verdict = build_verdict(
            frame,
            read_engines(ENTRY, artifacts),
            ENTRY,
            curve=read_curves(ENTRY, artifacts),
            quality_draws=sentences.quality_draws,
            engine_draws=draws,
            loss_draws=sentences.loss_draws,
            components=sentences.components,
        )
        return [(limit["low"], limit["high"]) for one in verdict["latency"] for limit in one["limits"]]

    limits = [limit for one in json.loads((results / "verdict.json").read_text())["latency"] for limit in one["limits"]]
    written = [(limit["low"], limit["high"]) for limit in limits]
    assert written == intervals(deployed)
    for wrong in (sentences.quality_draws, of_another):
        assert all(one != other for one, other in zip(written, intervals(wrong), strict=True))
    references = json.loads((artifacts / "corpus" / "test-references.json").read_text())
    for side in (limits[0]["heavy"], limits[0]["light"]):
        assert side["engine_quality"] == pytest.approx(quality[side["run_ids"]].mean())
        texts = [artifacts / "engines" / f"{run_id}.{side['engine']}.txt" for run_id in side["run_ids"]]
        bleu = [corpus_scores(path.read_text().splitlines(), references)["bleu"] for path in texts]
        assert side["engine_quality"] == pytest.approx(np.mean(bleu))


def test_a_study_whose_int8_models_all_differ_has_its_report_without_ladders(study: Path, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    shutil.copytree(study / "artifacts" / "toy", artifacts)
    path = artifacts / "engines" / "engines.json"
    records = json.loads(path.read_text())
    differing = {(r["run_id"], r["engine"]) for r in records if r["run_id"].endswith("q8")}
    for record in records:
        record["status"] = "differs" if record["run_id"].endswith("q8") else record["status"]
    path.write_text(json.dumps(records))
    times = artifacts / "time" / "latencies.json"
    kept = [line for line in json.loads(times.read_text()) if (line["run_id"], line["engine"]) not in differing]
    times.write_text(json.dumps(kept))
    write_report(ENTRY, artifacts=artifacts, out=tmp_path / "results")
    page = html.unescape((tmp_path / "results" / "report.html").read_text(encoding="utf-8"))
    section = page[page.index("<h2>Latency</h2>") : page.index("<h2>Distilled students</h2>")]
    assert "no ladder at 1 thread, batch 1 and" in section
    assert "no eligible int8 model of a size was timed there, see engines.csv" in section
    assert "<h3>Engines</h3>" in section
    assert '<td data-label="Limit">' not in section
    assert page.count('<figure id="latency">') == 1


def test_the_verdict_has_the_form_that_stands_beside_it(results: Path) -> None:
    verdict = json.loads((results / "verdict.json").read_text())
    jsonschema.validate(verdict, json.loads((results / "verdict.schema.json").read_text()))
    assert verdict["matches"][0]["limits"][2]["winner"] == "heavy"
    assert [one["axis"] for one in verdict["fronts"]] == list(AXES)
    assert all(one["members"] and sum(one["by_kind"].values()) == len(one["members"]) for one in verdict["fronts"])
    assert verdict["from_scratch"] == []
    assert {one["tau"] is None for one in verdict["why"] if one["bits"] == 3} == {True}


def test_the_page_is_self_contained_and_complete(results: Path) -> None:
    page = (results / "report.html").read_text(encoding="utf-8")
    assert 'name="viewport"' in page
    for value in re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', page):
        assert value.startswith("#")
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert not re.search(r"<script|<link|<img|<iframe", page)
    assert page.count("<svg") == 12
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    claim = json.loads((results / "verdict.json").read_text())["claim"]
    for text in (
        claim,
        "CC BY 2.0 FR",
        "made-up corpus",
        "edge of its grid",
        "Sign flips",
        "GFLOP/s",
        "Distilled students",
        "Each against the best other model of at most the same bytes",
        "beside plain runs of their size",
        "Latency",
    ):
        assert text in page
    assert page.index(claim) < page.index("What was matched")
    assert (
        page.index("are on the front along bytes of the file")
        < page.index("Every recipe: 4")
        < page.index("<h2>Figures")
    )


def test_latency_has_its_claim_its_ladders_its_figure_and_its_engines(results: Path) -> None:
    verdict = json.loads((results / "verdict.json").read_text())
    page = html.unescape((results / "report.html").read_text(encoding="utf-8"))
    claim = verdict["latency_claim"]
    assert page.index(verdict["claim"]) < page.index(claim) < page.index("What was matched")
    section = page[page.index("<h2>Latency</h2>") : page.index("<h2>Distilled students</h2>")]
    assert claim in section
    opened, folded = section[: section.index("<details>")], section[section.index("<details>") :]
    assert "1 thread, batch 1, equal device seconds (300 s)" in opened
    assert opened.count('<td data-label="Limit">') == 8
    assert section.count('<td data-label="Limit">') == 8 * len(verdict["latency"]) == 8 * 8
    assert '<figure id="latency">' in opened
    assert page.count('<figure id="latency">') == 1
    assert "2 threads, batch 32" in folded
    own = section[section.index("Models that ran in the engine they are deployed in alone") :]
    row = own[own.index("<td>w64x2/q4</td>") :]
    assert "<small>its 4-bit weights run as int8</small>" in row[: row.index("</tr>")]
    text = re.sub(r"\s+", " ", re.sub("</?code>", "", section))
    assert "do nearly the same work; what is left is noise, and hypotheses of other lengths" in text
    assert "for our own decoder (torch) that of transformers\u2019 generate" in text
    assert "ONNX Runtime\u2019s int8 has weights of 7 bits" in text
    assert "p is adjusted within each ladder" in text
    first = verdict["latency"][0]["limits"][0]
    assert f"{first['light']['latency_ms_p50']:.2f} ms in ctranslate2-int8" in opened
    assert "ctranslate2-int8</td>" in section or "ctranslate2-int8 <span" in section
    assert "1.67x" in section  # fp32 over int8, in the synthetic world


def test_students_and_their_claim_are_on_the_page_and_in_both_verdicts(results: Path) -> None:
    verdict = json.loads((results / "verdict.json").read_text())
    assert len(verdict["students"]) == 4  # fp32 of two sizes, two teachings
    assert verdict["students_claim"].startswith("Of 4 student configurations, ")
    for name in ("report.html", "verdict.md"):
        assert verdict["students_claim"] in html.unescape((results / name).read_text(encoding="utf-8"))
    page = (results / "report.html").read_text(encoding="utf-8")
    for line in verdict["students"]:
        assert f"<span>{line['student']['config_id']}<small>" in page
        assert f"excluded {line['totals']['excluded']['seconds_by_budget']:.2f}x" in page


def test_the_markdown_names_the_command_and_the_numbers(results: Path) -> None:
    text = (results / "verdict.md").read_text(encoding="utf-8")
    assert "`python -m stages.report --study toy`" in text
    assert text.count("| ") > 2 * 8 * 6
    first = json.loads((results / "verdict.json").read_text())["matches"][0]["limits"][2]
    assert f"{first['difference']:+.2f}" in text
    assert sum(" are on the front along " in line and line.startswith("- Of ") for line in text.splitlines()) == len(
        AXES
    )


def test_metrics_are_flat_numbers(results: Path) -> None:
    numbers = json.loads((results / "metrics.json").read_text())
    assert all(isinstance(value, int | float) for value in numbers.values())
    assert sum(numbers[f"seconds_{who}_by_loss"] for who in ("heavy", "light", "tie", "infeasible")) == 8


def test_same_inputs_same_bytes(study: Path, results: Path, tmp_path: Path) -> None:
    write_report(ENTRY, artifacts=study / "artifacts" / "toy", out=tmp_path / "again")
    assert files(tmp_path / "again") == files(results)


def test_a_removed_size_leaves_no_trace(study: Path) -> None:
    entry = ENTRY | {"runs": [key for key in ENTRY["runs"] if "w128x2" not in key]}
    artifacts = study / "artifacts" / "toy"
    for frame in (read_results(entry, artifacts), read_curves(entry, artifacts)):
        assert list(frame["size"].unique()) == ["w32x2", "w64x2"]


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("evaluate/toy-w64x2-s1/rows.json", "rows.json: no such file"),
        ("pretrain/toy-w64x2-s0/curve.csv", "curve.csv: no such file; run the pretrain stage"),
        ("corpus/test-components.npy", "run the prepare stage"),
        ("time/latencies.json", "latencies.json: no such file"),
        ("engines/engines.json", "engines.json: no such file"),
        ("engines/toy-w32x2-s0-seconds-q8.ctranslate2-int8.txt", "no such file; run the engines stage again"),
    ],
)
def test_a_missing_input_is_named_and_old_results_stay(study: Path, tmp_path: Path, lost: str, message: str) -> None:
    artifacts = tmp_path / "artifacts"
    shutil.copytree(study / "artifacts" / "toy", artifacts)
    (artifacts / lost).unlink()
    out = tmp_path / "results"
    out.mkdir()
    (out / "metrics.json").write_text("old")
    with pytest.raises(StudyError, match=message):
        write_report(ENTRY, artifacts=artifacts, out=out)
    assert files(out) == {"metrics.json": b"old"}


def test_a_chosen_row_without_bleu_is_named(study: Path, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    shutil.copytree(study / "artifacts" / "toy", artifacts)
    path = artifacts / "translate" / "test" / "translations.json"
    records = json.loads(path.read_text())
    path.write_text(json.dumps({name: record for name, record in records.items() if "w32x2-s0-seconds-q8" not in name}))
    with pytest.raises(StudyError, match="toy-w32x2-s0-seconds-q8: the quality of its configuration is needed"):
        write_report(ENTRY, artifacts=artifacts, out=tmp_path / "results")


def test_the_command_prints_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def written(entry: dict[str, Any], **paths: Path) -> str:
        calls.append(paths)
        return "toy: done"

    monkeypatch.setattr(stages.report, "read_entry", lambda kind, key: ENTRY)
    monkeypatch.setattr("pipeline.analysis.report.write_report", written)
    for arguments, out in (([], Path("results/toy")), (["--out", str(tmp_path)], tmp_path)):
        result = CliRunner().invoke(stages.report.app, ["--study", "toy", *arguments])
        assert (result.exit_code, result.output) == (0, "toy: done\n")
        assert calls.pop() == {"artifacts": Path("artifacts/toy"), "out": out}


def test_the_command_fails_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def entry(kind: str, key: str) -> dict[str, Any]:
        return ENTRY

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stages.report, "read_entry", entry)
    monkeypatch.setattr(sys, "argv", ["report", "--study", "toy"])
    with pytest.raises(SystemExit) as stopped:
        run(stages.report.app)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
