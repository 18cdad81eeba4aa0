"""The stages evaluate, engines and time on a study of classifiers, one after the other."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import stages.engines
import stages.evaluate
import stages.time
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.evaluation import engine_outputs
from pipeline.files import read_json
from tests.classifiers import write_classifier

KEY = "mlm-w32x2-s0"
ENTRY: dict[str, Any] = {
    "study": "mlm",
    "task": "classification",
    "runs": [KEY],
    "students": [],
    "matches": ["seconds"],
    "trained_in": "finetune",
    "scratch": True,
    "recipes": {
        "q4": {"family": "rtn", "method": "quantize", "kind": "uniform", "sizes": ["w32x2"], "matches": ["seconds"]}
        | {"seeds": None, "students": False}
    },
    "resamples": 100,
    "compared": ["torch", "ctranslate2-int8"],
    "compared_sizes": None,
    "threads": [1],
    "batches": [1, 4],
    "sentences": 8,
    "repeats": 2,
}


def test_a_study_of_classifiers(
    sentences: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    artifacts = Path("artifacts", "mlm")
    shutil.copytree(sentences.path.parent, artifacts / "corpus")
    for recipe, folder, bits in (
        ("fp32", f"finetune/{KEY}/seconds", None),
        ("scratch", f"finetune/{KEY}/seconds-scratch", None),
        ("q4", f"compressed/{KEY}/rtn/seconds-q4", 4),
    ):
        write_classifier(artifacts / folder, sentences, run_id=f"{KEY}-seconds-{recipe}", bits=bits)
    for module in (stages.evaluate, stages.engines, stages.time):
        monkeypatch.setattr(module, "read_entry", lambda kind, key: ENTRY)
    monkeypatch.setattr(  # processes of their own take seconds to begin
        engine_outputs, "on_every_core", lambda work, items, desc: [(item, work(item)) for item in items]
    )
    stages.evaluate.main(run_key=KEY)
    stages.engines.main(study="mlm")
    stages.time.main(study="mlm")

    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{KEY}: measured 3 of 3 models"
    assert told[1] == "artifacts/mlm/engines: 2 models in 4 engines: 3 ok, 1 refused, 0 differs"
    assert told[2] == "artifacts/mlm/time: timed 2 models in 3 engines"
    rows = read_json(artifacts / "evaluate" / KEY / "rows.json")
    assert [row["recipe"] for row in rows] == ["fp32", "scratch", "q4"]
    records = {
        (one["run_id"].rpartition("-")[2], one["engine"]): one
        for one in read_json(artifacts / "engines" / "engines.json")
    }
    assert {place: one["status"] for place, one in records.items()} == {
        ("fp32", "onnxruntime-float32"): "ok",
        ("fp32", "torch"): "ok",
        ("fp32", "ctranslate2-int8"): "refused",
        ("q4", "onnxruntime-int8"): "ok",
    }  # what was never pretrained is a control: nothing is decided by its time
    assert records["fp32", "torch"]["quality"] == pytest.approx(rows[0]["quality"])
    assert records["q4", "onnxruntime-int8"]["note"] == "its 4-bit weights run as int8"
    times = read_json(artifacts / "time" / "latencies.json")
    assert {(one["run_id"].rpartition("-")[2], one["engine"], one["batch"]) for one in times} == {
        (*place, batch) for place, one in records.items() if one["status"] == "ok" for batch in (1, 4)
    }
