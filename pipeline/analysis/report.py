"""A study's results folder, made from its artifacts: exactly the runs of its params.yaml entry, whole or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.analysis.engines_table import engine_columns, engines_table
from pipeline.analysis.equal_pretraining_loss import Finetunings
from pipeline.analysis.figures import write_figures
from pipeline.analysis.markdown import verdict_markdown
from pipeline.analysis.metrics import metrics
from pipeline.analysis.page import render_page
from pipeline.analysis.schema import SCHEMA, check_verdict
from pipeline.analysis.sentences import TestSentences
from pipeline.analysis.students import students_table
from pipeline.analysis.table import assemble
from pipeline.analysis.verdict import build_verdict
from pipeline.errors import StudyError
from pipeline.expected import expected_models
from pipeline.files import atomic_path, read_json, write_json
from pipeline.run_id import parse_run_id
from pipeline.selection import limits_bytes

OUTPUTS = (
    "runs.parquet",
    "runs.csv",
    "curves.csv",
    "engines.csv",
    "figures",
    "verdict.schema.json",
    "verdict.json",
    "verdict.md",
    "report.html",
    "metrics.json",
)
"""What a results folder holds; metrics come last, and say that the rest is there."""


def read_curves(entry: dict[str, Any], artifacts: Path) -> pd.DataFrame:
    """Return the loss curves of a study's pretrained runs, one line a point; StudyError names a missing file."""
    parts = []
    for key in entry["runs"]:
        path = artifacts / "pretrain" / key / "curve.csv"
        identity = parse_run_id(f"{key}-seconds-fp32")
        try:
            part = pd.read_csv(path)
        except FileNotFoundError:
            raise StudyError(f"{path}: no such file; run the pretrain stage") from None
        except pd.errors.EmptyDataError:
            continue  # every branch of this run diverged before its first point
        parts.append(part.assign(key=key, size=identity["size"], seed=identity["seed"]))
    columns = [
        "phase",
        "step",
        "train_seconds",
        "train_flops",
        "train_tokens",
        "learning_rate",
        "train_loss",
        "valid_loss",
    ]
    everything = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return everything.reindex(columns=["key", "size", "seed", *columns])


def read_engines(entry: dict[str, Any], artifacts: Path) -> pd.DataFrame:
    """Return the engines' table of a study; StudyError names the first file that is missing."""
    return engines_table(
        read_json(artifacts / "engines" / "engines.json"),
        read_json(artifacts / "time" / "latencies.json"),
        expected=[model.run_id for model in expected_models(entry)],
    )


def read_results(entry: dict[str, Any], artifacts: Path) -> pd.DataFrame:
    """Return the assembled table of a study; StudyError names the first file that is missing."""
    rows = [
        row
        for key in (*entry["runs"], *entry["students"])
        for row in read_json(artifacts / "evaluate" / key / "rows.json")
    ]
    translated = entry["task"] == "translation"  # of classes the evaluate stage measures every row's accuracy itself
    translations = read_json(artifacts / "translate" / "test" / "translations.json") if translated else {}
    return assemble(entry, rows, translations, engine_columns(read_engines(entry, artifacts)))


def read_finetunings(entry: dict[str, Any], artifacts: Path) -> Finetunings | None:
    """Return what the finetune stage says of each run's branches; None in a study that finetunes nothing.

    StudyError names the first file that is missing.
    """
    if entry["task"] != "classification":
        return None
    return {
        (key, branch): record
        for key in entry["runs"]
        for branch, record in read_json(artifacts / "finetune" / key / "metrics.json").items()
    }


def write_report(entry: dict[str, Any], *, artifacts: Path, out: Path) -> str:
    """Write the files of `OUTPUTS` to `out` and return a one-line summary.

    `entry` is the study's report entry, `artifacts` its folder of artifacts. All is made beside `out` first, so that a
    failure leaves what stood there. StudyError on a missing input or an unmeasured row that the verdict needs.
    """
    frame, curve = read_results(entry, artifacts), read_curves(entry, artifacts)
    engines = read_engines(entry, artifacts)
    deployed = frame.set_index("run_id")["latency_engine"]
    sentences = TestSentences(artifacts=artifacts, resamples=entry["resamples"], task=entry["task"])
    verdict = build_verdict(
        frame,
        engines,
        entry,
        curve=curve,
        quality_draws=sentences.quality_draws,
        engine_draws=lambda run_id: sentences.engine_draws(run_id, str(deployed[run_id])),
        loss_draws=sentences.loss_draws,
        components=sentences.components,
        finetunings=read_finetunings(entry, artifacts),
    )
    check_verdict(verdict)
    students = students_table(frame, entry)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:
        folder = Path(name)
        limits = limits_bytes(frame, entry["limits"])
        figures = write_figures(frame, engines, curve, students, limits, verdict=verdict, folder=folder / "figures")
        page = render_page(
            frame,
            engines,
            verdict,
            students,
            figures,
            entry=entry,
            card=read_json(artifacts / "corpus" / "card.json"),
            components=sentences.components,
        )
        frame.to_parquet(folder / "runs.parquet", index=False)
        frame.to_csv(folder / "runs.csv", index=False, lineterminator="\n")
        curve.to_csv(folder / "curves.csv", index=False, lineterminator="\n")
        engines.to_csv(folder / "engines.csv", index=False, lineterminator="\n")
        write_json(folder / "verdict.schema.json", SCHEMA)
        write_json(folder / "verdict.json", verdict)
        (folder / "verdict.md").write_text(verdict_markdown(verdict), encoding="utf-8")
        (folder / "report.html").write_text(page, encoding="utf-8")
        write_json(folder / "metrics.json", metrics(frame, verdict))
        for output in OUTPUTS:
            with atomic_path(out / output) as temporary:
                (folder / output).rename(temporary)
    return f"{out}: {int((frame['status'] == 'ok').sum())} of {len(frame)} models; {verdict['claim']}"
