"""Exported classifiers: what their lines of Python say, what is on their card, what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from pipeline.compression.activation_rounding import range_of, round_inputs
from pipeline.compression.formats import save_compressed, size_bytes
from pipeline.compression.methods.heads import keep_heads
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.deployment.classifier_export import SENTENCE
from pipeline.deployment.export import export
from pipeline.deployment.product import open_product
from pipeline.deployment.sources import Source, find_source
from pipeline.engines.onnxruntime_classifier import OnnxRuntimeClassifier
from pipeline.engines.registry import start_classifier
from pipeline.engines.search import EngineRefusal
from pipeline.errors import StudyError
from pipeline.evaluation.text_to_class import SentenceEncoder
from pipeline.evaluation.translation import plain
from pipeline.files import read_json
from pipeline.models.checkpoint import load_dense
from stages.export import app
from tests.classifiers import (
    candidate_of_classifier,
    encoder,
    encoder_size,
    prepared_corpus,
    write_classifier,
)

ROOT = Path(__file__).resolve().parents[2]
RUN_ID = "mlm-w32x2-s0-seconds-q4"
DATA: dict[str, Any] = {"kind": "text", "license": "CC0", "credit": "nobody", "max_tokens": 40}
BLOCKED = """\
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'transformers', 'pipeline', 'optimum', 'ctranslate2'):
            raise ImportError(f'{name} is not in a clean environment')
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> PreparedCorpus:
    return PreparedCorpus.open_task(prepared_corpus(tmp_path_factory.mktemp("encoders")), "classification")


def source_of(directory: Path, **facts: Any) -> Source:
    run = read_json(directory / "run.json")
    known = {"run_id": run["run_id"], "corpus": dict(DATA)}
    return Source(directory=directory, name=run["run_id"], run=run, **(known | facts))


@pytest.fixture(scope="module")
def four_bits(sentences: PreparedCorpus, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return source_of(write_classifier(tmp_path_factory.mktemp("four") / "model", sentences, run_id=RUN_ID, bits=4))


@pytest.fixture
def study(sentences: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where the study's corpus is at hand, with names of its classes."""
    corpus = tmp_path / "artifacts" / "mlm" / "corpus" / "sentences"
    shutil.copytree(sentences.path, corpus)
    card = read_json(corpus / "card.json") | {"class_names": ["bad", "good"]}
    (corpus / "card.json").write_text(json.dumps(card))
    monkeypatch.chdir(tmp_path)
    return corpus


def code_of(directory: Path) -> str:
    found = re.search(r"```python\n(.*?)\n```", (directory / "README.md").read_text(encoding="utf-8"), re.S)
    assert found is not None
    return found[1]


def run(program: str, directory: Path) -> list[str]:
    answer = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=directory, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


@pytest.mark.parametrize(
    ("form", "engine"),
    [
        (None, "onnxruntime-int8"),
        ("onnxruntime-float32", "onnxruntime-float32"),
        ("packed", "torch"),
        pytest.param("transformers", "torch", marks=pytest.mark.slow),
    ],
)
def test_the_card_s_lines_say_what_the_engine_says(
    form: str | None, engine: str, four_bits: Source, sentences: PreparedCorpus, study: Path
) -> None:
    exported = export(four_bits, "out", form=form)
    code = code_of(Path("out"))
    *first, last = code.splitlines()
    assert len(first) == 2
    (own,) = sentences.sentences("test").lines()[:1]
    lines = [*sentences.sentences("test").lines()[:12], "the cast , in May . " * 30]
    assert json.dumps(own) in last
    calls = [last.replace(json.dumps(own), json.dumps(line)) for line in lines]
    alone = {"onnxruntime": BLOCKED, "packed": f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"}
    found = run("\n".join([alone.get(exported.form.family, ""), *first, *calls]), Path("out"))
    running = start_classifier(engine, plain(four_bits.directory))
    encode = SentenceEncoder.of_corpus(sentences)
    expected = [["bad", "good"][int(running.classify(encode([line])).argmax())] for line in lines]
    assert found == expected
    assert len(set(expected)) == 2
    assert exported.files == {path.name: path.stat().st_size for path in Path("out").iterdir()}


def test_a_pair_of_sentences_and_classes_without_names(
    four_bits: Source, sentences: PreparedCorpus, study: Path
) -> None:
    (study / "test.txt").write_text("the film\tis dull\n")
    card = read_json(study / "card.json") | {"class_names": None}
    (study / "card.json").write_text(json.dumps(card))
    encode, model = SentenceEncoder.of_corpus(sentences), plain(four_bits.directory)
    for form, engine in (("onnxruntime-int8", "onnxruntime-int8"), ("packed", "torch")):
        exported = export(four_bits, form, form=form)
        assert '"the film", "is dull"' in exported.code
        program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code_of(Path(form))}"
        logits = start_classifier(engine, model).classify(encode(["the film\tis dull"]))
        assert run(program, Path(form)) == [str(int(logits.argmax()))]


def test_transformers_loads_it_with_its_classes(four_bits: Source, study: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    export(four_bits, "out", form="transformers")
    tokenizer, model = (kind.from_pretrained("out") for kind in (AutoTokenizer, AutoModelForSequenceClassification))
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert tokenizer.model_max_length == 40
    inputs = tokenizer(["the film is dull", SENTENCE], padding=True, return_tensors="pt")
    expected = plain(four_bits.directory)(**inputs).logits.detach().numpy()
    assert np.abs(model(**inputs).logits.detach().numpy() - expected).max() < 1e-6


def test_a_card_has_the_results_numbers(four_bits: Source, study: Path, tmp_path: Path) -> None:
    row = {
        "run_id": RUN_ID,
        "size_bytes": size_bytes(four_bits.directory),
        "compression_ratio": 6.84,
        "test_loss": 0.41234,
    }
    row |= {
        "quality": 81.254,
        "quality_low": 79.5,
        "quality_high": 83.1,
        "signature": "accuracy|n:2000|boot:1000|seed:0",
    }
    engine = {"run_id": RUN_ID, "engine": "onnxruntime-int8", "status": "ok", "note": "its 4-bit weights run as int8"}
    engine |= {
        "same_hypotheses": 0.9995,
        "quality": 80.9,
        "quality_low": 79.1,
        "quality_high": 82.8,
        "engine_bytes": 1000,
    }
    times = [engine | {"threads": 1, "batch": 1, "latency_ms_p50": 0.254, "latency_ms_p95": 1.5}]
    (tmp_path / "results").mkdir()
    pd.DataFrame([row]).to_parquet(tmp_path / "results" / "runs.parquet")
    pd.DataFrame(times).to_csv(tmp_path / "results" / "engines.csv", index=False)
    export(four_bits, "out", results=tmp_path / "results")
    _, header, text = Path("out", "README.md").read_text(encoding="utf-8").split("---\n", 2)
    front = yaml.safe_load(header)
    assert (front["pipeline_tag"], front["library_name"]) == ("text-classification", "onnxruntime")
    assert front["tags"] == ["text-classification", "onnxruntime", "quantized"]
    assert (front["license_name"], front["metrics"]) == ("CC0", ["accuracy"])
    (metric,) = front["model-index"][0]["results"][0]["metrics"]
    assert (metric["type"], metric["value"]) == ("accuracy", 80.9)
    assert "2 classes apart (bad, good): an encoder of width 32, 2 layers, 1 heads" in text
    assert "in fp32 arithmetic | 81.25 % | 79.5 to 83.1 |" in text
    assert "this directory's own output | 80.90 % | 79.1 to 82.8 |" in text
    assert "99.95 % of the classes of ONNX Runtime with float32 weights, converted from the same" in text
    assert "Test loss 0.4123 nats a sentence." in text
    assert "| 1 | 1 | 0.25 ms | 1.5 ms |" in text
    assert "text to class, on the machine" in text
    assert "its 4-bit weights run as int8" in text
    assert "finetune 8.0 s, 5e+11 FLOP; train 32.0 s, 2e+12 FLOP; together 40.0 device seconds" in text
    assert "more than 40 tokens" in text
    assert "BLEU" not in text
    assert "translat" not in text


def test_nothing_is_invented(four_bits: Source, tmp_path: Path) -> None:
    exported = export(source_of(four_bits.directory, run_id=None, corpus=None), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "Accuracy: not measured (the model is no row of a study's table)." in text
    assert "In this form: not measured." in text
    assert json.dumps(SENTENCE) in exported.code
    assert "more than 64 tokens" in text  # its positions


def test_pruned_heads_are_exported_for_onnx_runtime(sentences: PreparedCorpus, tmp_path: Path) -> None:
    size = encoder_size(64, num_labels=2)
    candidate = candidate_of_classifier(encoder(size, vocab_size=sentences.vocab_size))
    candidate.size = size.changed(num_heads=1, head_dim=32)
    candidate.model = keep_heads(candidate.model, candidate.size)
    shutil.copytree(write_classifier(tmp_path / "dense", sentences, run_id=RUN_ID), tmp_path / "pruned")
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "pruned" / name).unlink()
    save_compressed(candidate, tmp_path / "pruned")
    source = source_of(tmp_path / "pruned")
    with pytest.raises(
        EngineRefusal, match=r"heads were pruned.*export it with --engine onnxruntime-float32 or packed"
    ):
        export(source, tmp_path / "out", form="transformers")
    assert export(source, tmp_path / "out").form.name == "onnxruntime-float32"
    ids = SentenceEncoder.of_corpus(sentences)(sentences.sentences("test").lines()[:10])
    found = OnnxRuntimeClassifier.open(tmp_path / "out").classify(ids)
    assert np.abs(found - start_classifier("torch", candidate.model).classify(ids)).max() < 1e-4


def test_rounded_inputs_stay_packed(sentences: PreparedCorpus, tmp_path: Path) -> None:
    dense = write_classifier(tmp_path / "model", sentences, run_id=RUN_ID)
    candidate = candidate_of_classifier(load_dense(dense))
    candidate.activations = {"classifier.dense": range_of(-1.0, 1.0, 4)}
    round_inputs(candidate.model, candidate.activations)
    (dense / "model.safetensors").unlink()
    save_compressed(candidate, dense)
    assert export(source_of(dense), tmp_path / "out").form.name == "packed"
    assert size_bytes(tmp_path / "out") == size_bytes(dense)
    with pytest.raises(EngineRefusal, match="rounds inputs on calibrated ranges, which onnxruntime-int8 cannot"):
        export(source_of(dense), tmp_path / "other", form="onnxruntime-int8")


def test_what_cannot_be_is_one_line(four_bits: Source, sentences: PreparedCorpus, tmp_path: Path) -> None:
    with pytest.raises(
        StudyError,
        match="ctranslate2-int8 runs no classifiers; export it with --engine onnxruntime-float32, onnxruntime-int8, transf",
    ):
        export(four_bits, tmp_path / "out", form="ctranslate2-int8")
    export(four_bits, tmp_path / "out")
    for directory in (tmp_path / "out", four_bits.directory):
        with pytest.raises(
            StudyError, match=f"{directory}: a classifier, which tells classes apart, and translates nothing"
        ):
            open_product(directory)
    masked_lm = tmp_path / "masked"
    encoder(encoder_size(num_labels=0)).save_pretrained(masked_lm)
    with pytest.raises(StudyError, match="an encoder that predicts masked words, no product"):
        export(Source(directory=masked_lm, name="masked", run={}), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_command_exports_a_classifier(four_bits: Source, tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, [str(four_bits.directory), "--to", str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.output
    assert "as ONNX Runtime with int8 weights" in answer.output
    assert "pip install onnxruntime tokenizers" in answer.output
    assert str(tmp_path / "out" / "model.onnx") in answer.output


def test_a_row_of_a_study_of_classifiers_is_found(sentences: PreparedCorpus, study: Path) -> None:
    recipe = {"family": "rtn", "method": "quantize", "sizes": ["w32x2"], "matches": ["seconds"], "seeds": None}
    entry = {"runs": ["mlm-w32x2-s0"], "students": [], "matches": ["seconds"], "recipes": {"q4": recipe}}
    entry |= {"study": "mlm", "task": "classification", "trained_in": "finetune", "scratch": True}
    params = {"studies": {"mlm": {"config": "configs/mlm.yaml"}}, "engines": {"mlm": entry}, "prepare": {"mlm": DATA}}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(StudyError, match="make it with `tlc reproduce finetune@mlm-w32x2-s0`"):
        find_source("mlm-w32x2-s0-seconds-fp32")
    for recipe_name, name in (("fp32", "seconds"), ("scratch", "seconds-scratch")):
        place = Path("artifacts", "mlm", "finetune", "mlm-w32x2-s0", name)
        write_classifier(place, sentences, run_id=f"mlm-w32x2-s0-seconds-{recipe_name}")
        found = find_source(f"mlm-w32x2-s0-seconds-{recipe_name}")
        assert (found.directory, found.search, found.corpus) == (place, None, DATA)
        assert find_source(str(place)) == found
        assert export(found, name).form.name == "onnxruntime-float32"
    assert "more than 40 tokens" in Path("seconds", "README.md").read_text(encoding="utf-8")
