"""What the engines write: narrower weights, directories that open again, models left alone, refusals in one line."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import pipeline.engines.ctranslate2_conversion as ctranslate2
import pipeline.engines.onnxruntime_engine as onnxruntime
from pipeline.compression.activation_rounding import range_of, round_inputs
from pipeline.compression.methods.heads import keep_heads
from pipeline.compression.quanto_files import freeze, plain_model, quantize_layers
from pipeline.engines.ctranslate2_engine import CTranslate2Engine
from pipeline.engines.onnxruntime_engine import OnnxRuntimeEngine
from pipeline.engines.parity import same_hypotheses
from pipeline.engines.registry import start_engine
from pipeline.engines.search import BeamSearch, EngineRefusal
from pipeline.errors import StudyError
from pipeline.evaluation.decoding import translate
from pipeline.size import SizeSpec
from tests.processors import INT16, needs_int16
from tests.trained import Trained

SEARCH = BeamSearch(beam=4, length_penalty=1.0, max_length=14)
FILE_BACKED = [
    "ctranslate2-float32",
    pytest.param(INT16, marks=needs_int16),
    "ctranslate2-int8",
    "onnxruntime-float32",
    "onnxruntime-int8",
]
FAMILIES: dict[str, tuple[Any, Callable[..., Any]]] = {
    "ctranslate2": (ctranslate2.convert, CTranslate2Engine.open),
    "onnxruntime": (onnxruntime.convert, OnnxRuntimeEngine.open),
}


def answers(engine: Any, trained: Trained, lines: int = 60) -> list[list[int]]:
    sources = trained.tokenizer(trained.lines[:lines])["input_ids"]
    return [engine.collect(handle) for handle in engine.submit(sources, SEARCH)]


@pytest.mark.parametrize("name", FILE_BACKED)
def test_a_directory_opens_again(trained: Trained, name: str, tmp_path: Path, capfd: Any) -> None:
    family, _, weights = name.partition("-")
    convert, open_directory = FAMILIES[family]
    convert(trained.model, trained.tokenizer, tmp_path / "made", weights=weights)
    size = sum(path.stat().st_size for path in (tmp_path / "made").iterdir())
    (tmp_path / "made").rename(tmp_path / "moved")
    (tmp_path / "moved" / "README.md").write_text("not the engine's")
    opened = open_directory(tmp_path / "moved")
    engine = start_engine(name, trained.model, trained.tokenizer)
    assert opened.name == engine.name == name
    assert opened.size_bytes == engine.size_bytes == size
    assert answers(opened, trained) == answers(engine, trained)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize(
    ("name", "least", "fraction"),
    [
        pytest.param(INT16, 0.95, 0.6, marks=needs_int16),
        ("ctranslate2-int8", 0.75, 0.4),
        ("onnxruntime-int8", 0.7, 0.6),
    ],
)
def test_narrower_weights_are_smaller_and_close(
    trained: Trained, name: str, least: float, fraction: float, pruned: bool
) -> None:
    model = (
        keep_heads(trained.model, SizeSpec(d_model=64, num_layers=2, num_heads=1, head_dim=32))
        if pruned
        else trained.model
    )
    exact, narrow = (
        start_engine(engine, model, trained.tokenizer) for engine in (f"{name.partition('-')[0]}-float32", name)
    )
    assert least <= same_hypotheses(answers(narrow, trained, 200), answers(exact, trained, 200))
    assert narrow.size_bytes < fraction * exact.size_bytes


def test_onnx_weights_cannot_saturate(trained: Trained, tmp_path: Path) -> None:
    """Two products of 8-bit inputs and weights of at most 64 fit into the 16 bits that older processors sum them in."""
    onnxruntime.convert(trained.model, trained.tokenizer, tmp_path, weights="int8")
    graph = onnx.load(tmp_path / "decoder_with_past_model.onnx").graph
    products = {name for node in graph.node if node.op_type == "MatMulInteger" for name in node.input}
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in products]
    matrices = [weight for weight in weights if weight.ndim == 2]
    assert len(matrices) >= 2 * 8 + 1  # of two layers, and the output
    assert all(weight.dtype == np.int8 and 60 <= np.abs(weight.astype(int)).max() <= 64 for weight in matrices)


def test_a_model_stays_as_it_was(trained: Trained) -> None:
    model = copy.deepcopy(trained.model).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config, numbers = copy.deepcopy(model.config.to_dict()), torch.get_rng_state()
    for name in ("ctranslate2-float32", "ctranslate2-int8", "onnxruntime-float32", "onnxruntime-int8"):
        start_engine(name, model, trained.tokenizer)
    assert model.training
    assert model.config.to_dict() == config
    assert model.lm_head.weight is model.model.shared.weight
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), numbers)


def test_a_converted_model_is_opened_without_torch(trained: Trained, tmp_path: Path) -> None:
    ctranslate2.convert(trained.model, trained.tokenizer, tmp_path, weights="int8")
    program = (
        "import sys\nfrom pipeline.engines.ctranslate2_engine import CTranslate2Engine\n"
        f"CTranslate2Engine.open({str(tmp_path)!r})\nprint(sys.modules.keys() & {{'torch', 'transformers'}})"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "set()\n"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_damaged_directory_is_one_line(trained: Trained, family: str, tmp_path: Path) -> None:
    convert, open_directory = FAMILIES[family]
    with pytest.raises(StudyError, match=r"config\.json: no such file"):
        open_directory(tmp_path)
    convert(trained.model, trained.tokenizer, tmp_path, weights="float32")
    largest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
    with pytest.raises(StudyError, match=f"{tmp_path}: .*cannot open it .*; convert the model again") as found:
        open_directory(tmp_path)
    assert len(str(found.value).splitlines()) == 1
    if family == "ctranslate2":
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(StudyError, match="not a CTranslate2 model that this project wrote"):
            open_directory(tmp_path)
    with pytest.raises(StudyError, match="has no weights 'int4' here; did you mean 'int"):
        convert(trained.model, trained.tokenizer, tmp_path, weights="int4")


@pytest.mark.parametrize(("family", "title"), [("ctranslate2", "CTranslate2"), ("onnxruntime", "ONNX Runtime")])
def test_what_is_more_than_weights_is_refused(trained: Trained, family: str, title: str) -> None:
    rounding, quanto, foreign = (copy.deepcopy(trained.model) for _ in range(3))
    layer = "model.encoder.layers.0.fc1"
    round_inputs(rounding, {layer: range_of(-1.0, 1.0, 8)})
    with pytest.raises(EngineRefusal, match=f"{title} takes weights alone, but the model rounds the inputs of {layer}"):
        translate(rounding, trained.tokenizer, ["w1"], engine=f"{family}-float32")
    quantize_layers(quanto, [layer], 8)
    freeze(quanto)
    with pytest.raises(EngineRefusal, match=rf"{title} takes fp32 weights, but {layer}.weight is optimum-quanto's"):
        translate(quanto, trained.tokenizer, ["w1"], engine=f"{family}-float32")
    assert translate(plain_model(quanto), trained.tokenizer, ["w1"], engine=f"{family}-float32")
    foreign.config.model_type = "bart"
    with pytest.raises(EngineRefusal, match=f"{title} is given m2m_100 and marian models here, not 'bart'"):
        translate(foreign, trained.tokenizer, ["w1"], engine=f"{family}-float32")


def test_what_ctranslate2_cannot_do_is_refused(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.deepcopy(trained.model)
    model.config.activation_function = "quick_gelu"
    with pytest.raises(EngineRefusal, match="no activation 'quick_gelu'"):
        translate(model, trained.tokenizer, ["w1"])
    larger = copy.deepcopy(trained.model)
    larger.resize_token_embeddings(70, mean_resizing=False)
    with pytest.raises(EngineRefusal, match="the source tokenizer has 64 tokens but the model 70"):
        translate(larger, trained.tokenizer, ["w1"])
    monkeypatch.setattr("ctranslate2.get_supported_compute_types", lambda device: {"float32", "int8"})
    with pytest.raises(EngineRefusal, match="cannot compute in int16 on this processor; use engine"):
        translate(trained.model, trained.tokenizer, ["w1"], engine="ctranslate2-int16")


def test_the_share_of_same_hypotheses() -> None:
    assert same_hypotheses(["a", "b", "c", "d"], ["a", "x", "c", "d"]) == 0.75
    assert same_hypotheses([[4, 5]], [[4, 5]]) == 1.0
    with pytest.raises(ValueError, match="no hypotheses"):
        same_hypotheses([], [])
    with pytest.raises(ValueError, match="shorter"):
        same_hypotheses(["a", "b"], ["a"])
