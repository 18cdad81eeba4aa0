"""Engines on the small corpus: what is compared, what is refused, what a stopped stage goes on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.compression.formats import save_compressed
from pipeline.compression.methods import activations
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.deployed import Planned
from pipeline.engines.search import EngineRefusal
from pipeline.evaluation import engine_outputs, translation_outputs
from pipeline.evaluation.engine_outputs import Task, run_engines, run_model
from pipeline.evaluation.translation_outputs import TranslationOutputs
from pipeline.recipes import Activations
from tests.benches import bench_of, candidate_of

SEARCH: dict[str, Any] = {"beam": 2, "length_penalty": 1.0, "max_length": 12}
NAME = "toy-w16x1-s0-seconds-fp32"


def planned(engine: str = "ctranslate2-float32", **changes: Any) -> Planned:
    return Planned(**({"run_id": NAME, "engine": engine, "deployed": True, "first": True} | changes))


@pytest.fixture(scope="module")
def models(corpus: PreparedCorpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A plain model, and one that rounds its inputs."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("plain", "rounding"):
        candidate = candidate_of(corpus)
        with torch.no_grad():  # untrained, but it looks at its source: hypotheses differ, so that a mix-up would show
            for layer in candidate.model.model.decoder.layers:
                layer.encoder_attn.q_proj.weight.mul_(4)
                layer.encoder_attn.v_proj.weight.mul_(20)
        if name == "rounding":
            activations.apply(candidate, Activations(method="activations", sentences=20), bench_of(corpus, folder))
        save_compressed(candidate, folder / name)
    return {name: folder / name for name in ("plain", "rounding")}


def records_of(
    directory: Path, plan: list[Planned], corpus: PreparedCorpus, folder: Path
) -> dict[str, tuple[dict[str, Any], list[str] | None]]:
    """Return {engine: (record, hypotheses)}."""
    task = Task(directory=directory, planned=tuple(plan), work=folder / "done.json")
    done = json.loads(run_model(task, search=SEARCH, corpus_path=corpus.path, resamples=100).read_text())
    return {one["record"]["engine"]: (one["record"], one["lines"]) for one in done}


def test_records_are_those_of_the_contract(models: dict[str, Path], corpus: PreparedCorpus, tmp_path: Path) -> None:
    plan = [planned(), planned("ctranslate2-int8", deployed=False, note="its 4-bit weights run as int8")]
    made = records_of(models["plain"], plan, corpus, tmp_path)
    record, hypotheses = made["ctranslate2-float32"]
    assert set(record) == {
        "run_id", "engine", "deployed", "status", "note", "same_hypotheses", "size_bytes", "quality", "quality_low",
        "quality_high", "signature", "chrf",
    }  # fmt: skip
    assert (record["status"], record["deployed"], record["note"]) == ("ok", True, None)
    assert record["same_hypotheses"] >= 0.99
    assert record["quality_low"] <= record["quality"] <= record["quality_high"]
    assert "nrefs" in record["signature"]
    assert hypotheses is not None
    assert len(hypotheses) == len(corpus.split("test"))
    assert len(set(hypotheses)) > len(hypotheses) / 2
    narrow, _ = made["ctranslate2-int8"]
    assert (narrow["deployed"], narrow["note"]) == (False, "its 4-bit weights run as int8")
    assert narrow["same_hypotheses"] == record["same_hypotheses"]  # both are of CTranslate2 in fp32


def test_other_seeds_are_translated_but_not_compared(
    models: dict[str, Path], corpus: PreparedCorpus, tmp_path: Path
) -> None:
    ((record, _),) = records_of(models["plain"], [planned(first=False)], corpus, tmp_path).values()
    assert (record["status"], record["same_hypotheses"]) == ("ok", None)
    assert record["quality"] is not None


def test_what_an_engine_refuses_is_deployed_in_our_own_decoder(
    models: dict[str, Path], corpus: PreparedCorpus, tmp_path: Path
) -> None:
    made = records_of(models["rounding"], [planned("ctranslate2-int8", note="unheard")], corpus, tmp_path)
    refused, nothing = made["ctranslate2-int8"]
    assert (refused["status"], refused["deployed"], nothing) == ("refused", False, None)
    assert "rounds the inputs" in refused["note"]
    assert [refused[name] for name in ("quality", "size_bytes", "same_hypotheses")] == [None, None, None]
    own, hypotheses = made["torch"]
    assert (own["status"], own["deployed"], own["note"]) == ("ok", True, refused["note"])
    assert hypotheses is not None
    assert own["size_bytes"] > 0


def test_an_engine_that_is_merely_compared_may_refuse(
    models: dict[str, Path], corpus: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_start = translation_outputs.start_engine

    def start(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "ctranslate2-int16":
            raise EngineRefusal("not today")
        return plain_start(name, *arguments, **options)

    monkeypatch.setattr(translation_outputs, "start_engine", start)
    plan = [planned(), planned("ctranslate2-int16", deployed=False)]
    made = records_of(models["plain"], plan, corpus, tmp_path)
    assert set(made) == {"ctranslate2-float32", "ctranslate2-int16"}
    assert made["ctranslate2-int16"][0]["note"] == "not today"
    assert made["ctranslate2-float32"][0]["deployed"]


def test_an_engine_with_other_hypotheses_differs(
    models: dict[str, Path], corpus: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_greedy = TranslationOutputs.greedy

    def greedy(self: Any, name: str) -> list[str]:
        lines = plain_greedy(self, name)
        return lines if name == "torch" else [*lines[:-2], "something", "else"]

    monkeypatch.setattr(TranslationOutputs, "greedy", greedy)
    plan = [planned("ctranslate2-int8", note="its 4-bit weights run as int8")]
    ((record, hypotheses),) = records_of(models["plain"], plan, corpus, tmp_path).values()
    assert record["status"] == "differs"
    assert record["same_hypotheses"] < 0.99
    assert record["note"].startswith("only 9")
    assert record["note"].endswith("; its 4-bit weights run as int8")
    assert record["quality"] is not None
    assert hypotheses is not None


def test_a_stopped_stage_goes_on_with_what_is_finished(
    models: dict[str, Path], corpus: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(  # processes of their own take seconds to begin
        engine_outputs, "on_every_core", lambda work, items, desc: [(item, work(item)) for item in items]
    )
    out, work = tmp_path / "engines", tmp_path / "work"
    other = NAME.replace("s0", "s1")
    done = {"run_id": other, "engine": "ctranslate2-float32", "status": "ok"}
    work.mkdir()
    (work / f"{other}.json").write_text(json.dumps([{"record": done, "lines": ["finished before"]}]))
    line = run_engines(
        [planned(), planned(run_id=other, first=False)],
        {NAME: models["plain"], other: tmp_path / "not there"},
        search=SEARCH,
        corpus=corpus,
        resamples=100,
        out=out,
        work=work,
    )
    assert line == f"{out}: 2 models in 1 engines: 2 ok, 0 refused, 0 differs"
    records = json.loads((out / "engines.json").read_text())
    assert [record["run_id"] for record in records] == [NAME, other]
    assert records[1] == done
    assert (out / f"{other}.ctranslate2-float32.txt").read_text() == "finished before\n"
    assert len((out / f"{NAME}.ctranslate2-float32.txt").read_text().splitlines()) == len(corpus.split("test"))
    assert not work.exists()
