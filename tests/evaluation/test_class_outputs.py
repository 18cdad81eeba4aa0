"""Classifiers in engines on the small corpus: what is compared, refused and scored, from text to class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.compression.activation_rounding import range_of, round_inputs
from pipeline.compression.formats import save_compressed
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.deployed import Planned
from pipeline.engines.registry import start_classifier
from pipeline.evaluation import engine_outputs
from pipeline.evaluation.class_outputs import ClassOutputs
from pipeline.evaluation.classification import class_logits
from pipeline.evaluation.engine_outputs import Task, run_engines, run_model
from pipeline.evaluation.text_to_class import SentenceEncoder, classes_of_lines
from pipeline.files import read_json
from pipeline.models.checkpoint import load_dense
from tests.classifiers import candidate_of_classifier, write_classifier

NAME = "mlm-w32x2-s0-seconds-fp32"
LAYER = "roberta_prelayernorm.encoder.layer.0.intermediate.dense"


def planned(engine: str = "onnxruntime-float32", **changes: Any) -> Planned:
    return Planned(**({"run_id": NAME, "engine": engine, "deployed": True, "first": True} | changes))


@pytest.fixture(scope="module")
def plain(sentences: PreparedCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("models") / "plain", sentences, run_id=NAME)


def records_of(
    directory: Path, plan: list[Planned], corpus: PreparedCorpus, folder: Path
) -> dict[str, tuple[dict[str, Any], list[str] | None]]:
    """Return {engine: (record, classes)}."""
    task = Task(directory=directory, planned=tuple(plan), work=folder / "done.json")
    done = read_json(run_model(task, search={}, corpus_path=corpus.path, resamples=100))
    return {one["record"]["engine"]: (one["record"], one["lines"]) for one in done}


def test_lines_become_the_ids_of_the_corpus(sentences: PreparedCorpus) -> None:
    encode = SentenceEncoder.of_corpus(sentences)
    for name in ("valid", "test"):
        split = sentences.sentences(name)
        assert encode(split.lines()) == [[0, *ids.tolist(), 2] for ids in split.sentences]
    longer = " ".join(["unheard-of"] * 40)
    for line, separators in ((longer, 0), (f"{longer}\t{longer}", 2), (f"the film\t{longer}", 2)):
        (ids,) = encode([line])
        assert (len(ids), ids[0], ids[-1]) == (40, 0, 2)
        assert ids[1:-1].count(2) == separators
    (ids,) = encode(["<s> the <mask> </s> <pad>"])
    assert min(ids[1:-1]) > 4  # names of special tokens are text
    assert not set(ids) & set(encode([""])[0]) - {0, 2}


def test_records_are_those_of_the_contract(plain: Path, sentences: PreparedCorpus, tmp_path: Path) -> None:
    plan = [
        planned(),
        planned("onnxruntime-int8", deployed=False, note="its 4-bit weights run as int8"),
        planned("torch"),
    ]
    made = records_of(plain, plan, sentences, tmp_path)
    record, classes = made["onnxruntime-float32"]
    assert set(record) == {
        "run_id", "engine", "deployed", "status", "note", "same_hypotheses", "size_bytes", "quality", "quality_low",
        "quality_high", "signature", "chrf",
    }  # fmt: skip
    assert (record["status"], record["deployed"], record["note"], record["chrf"]) == ("ok", True, None, None)
    assert record["same_hypotheses"] >= 0.99
    split = sentences.sentences("test")
    expected = class_logits(load_dense(plain), split).argmax(axis=1)
    assert len(set(expected.tolist())) == 2
    assert classes == [str(number) for number in expected.tolist()]
    assert record["quality"] == pytest.approx(100 * (expected == split.labels).mean())
    assert record["quality_low"] < record["quality"] < record["quality_high"]
    assert record["signature"] == f"accuracy|n:{len(split)}|boot:100|seed:0"
    narrow, _ = made["onnxruntime-int8"]
    assert (narrow["deployed"], narrow["note"]) == (False, "its 4-bit weights run as int8")
    assert narrow["same_hypotheses"] == record["same_hypotheses"]  # both are of ONNX Runtime in fp32
    assert narrow["size_bytes"] < record["size_bytes"]
    assert made["torch"][0]["size_bytes"] == (plain / "model.safetensors").stat().st_size


def test_rounded_inputs_are_deployed_in_torch_and_ctranslate2_refuses(
    plain: Path, sentences: PreparedCorpus, tmp_path: Path
) -> None:
    candidate = candidate_of_classifier(load_dense(plain))
    candidate.activations = {LAYER: range_of(-1.0, 1.0, 4)}
    round_inputs(candidate.model, candidate.activations)
    save_compressed(candidate, tmp_path / "rounding")
    plan = [planned("onnxruntime-int8", note="unheard"), planned("ctranslate2-int8", deployed=False, first=False)]
    made = records_of(tmp_path / "rounding", plan, sentences, tmp_path)
    refused, nothing = made["onnxruntime-int8"]
    assert (refused["status"], refused["deployed"], nothing) == ("refused", False, None)
    assert f"rounds the inputs of {LAYER}" in refused["note"]
    assert [refused[name] for name in ("quality", "size_bytes", "same_hypotheses")] == [None, None, None]
    own, classes = made["torch"]
    assert (own["status"], own["deployed"], own["note"]) == ("ok", True, refused["note"])
    assert own["same_hypotheses"] == 1.0
    assert classes is not None
    assert made["ctranslate2-int8"][0]["note"] == (
        "engine 'ctranslate2-int8' runs no classifiers; use one of onnxruntime-float32, onnxruntime-int8, torch"
    )


def test_an_engine_with_other_classes_differs(
    plain: Path, sentences: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ClassOutputs.lines
    monkeypatch.setattr(ClassOutputs, "lines", lambda self, name: [*right(self, name)[:-2], "7", "8"])
    plan = [planned("onnxruntime-int8", note="its 4-bit weights run as int8")]
    ((record, classes),) = records_of(plain, plan, sentences, tmp_path).values()
    assert record["status"] == "differs"
    assert record["note"].startswith("only 9")
    assert record["note"].endswith(
        "% of its fp32 classes are those of the plain forward pass over the corpus; its 4-bit weights run as int8"
    )
    assert record["quality"] is not None
    assert classes is not None


def test_files_are_those_of_the_contract(
    plain: Path, sentences: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(  # processes of their own take seconds to begin
        engine_outputs, "on_every_core", lambda work, items, desc: [(item, work(item)) for item in items]
    )
    folders = {"out": tmp_path / "engines", "work": tmp_path / "work"}
    line = run_engines([planned()], {NAME: plain}, search={}, corpus=sentences, resamples=100, **folders)
    assert line == f"{tmp_path / 'engines'}: 1 models in 1 engines: 1 ok, 0 refused, 0 differs"
    (record,) = json.loads((tmp_path / "engines" / "engines.json").read_text())
    assert record["run_id"] == NAME
    classes = (tmp_path / "engines" / f"{NAME}.onnxruntime-float32.txt").read_text().splitlines()
    assert len(classes) == len(sentences.split("test"))
    assert set(classes) == {"0", "1"}


def test_batches_are_put_back_in_order(plain: Path, sentences: PreparedCorpus) -> None:
    engine, encode = start_classifier("torch", load_dense(plain)), SentenceEncoder.of_corpus(sentences)
    lines = sentences.sentences("test").lines()
    expected = [int(engine.classify(encode([line])).argmax()) for line in lines]
    for batch_tokens in (1, 100, 5000):
        found = classes_of_lines(engine, encode, lines, batch_tokens=batch_tokens)
        assert found.dtype == np.int64
        assert found.tolist() == expected
    assert classes_of_lines(engine, encode, []).tolist() == []
