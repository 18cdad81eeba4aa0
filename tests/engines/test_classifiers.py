"""Classifiers in every engine that takes them: torch's own logits, whatever was pruned or rounded, and refusals in one line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from pipeline.compression.activation_rounding import range_of, round_inputs
from pipeline.compression.formats import load_model, save_compressed
from pipeline.compression.methods.uniform import apply as uniform
from pipeline.compression.quanto_files import freeze, linear_layers, plain_model, quantize_layers
from pipeline.engine_names import CLASSIFIER_ENGINES, ENGINES
from pipeline.engines.onnxruntime_classifier import GRAPH, OnnxRuntimeClassifier, convert
from pipeline.engines.registry import start_classifier, start_engine
from pipeline.engines.search import EngineRefusal
from pipeline.errors import StudyError
from pipeline.models.building import build
from pipeline.models.parameters import stored_parameters
from pipeline.models.pruned import reshaped, shape_of
from pipeline.recipes import Uniform
from tests.candidates import NO_BENCH
from tests.classifiers import VOCABULARY, candidate_of_classifier, centre, encoder, encoder_size

ON_GRAPHS = tuple(name for name in CLASSIFIER_ENGINES if name.startswith("onnxruntime-"))
LAYER = "roberta_prelayernorm.encoder.layer.0.intermediate.dense"


def dense(folder: Path) -> Any:
    return encoder(encoder_size(64))


def cut(**fields: Any) -> Callable[[Path], Any]:
    """Return what cuts the dense model to another shape, the first rows and columns kept."""

    def make(folder: Path) -> Any:
        model = dense(folder)
        size = shape_of(model.config).changed(**fields)
        whole, weights = stored_parameters(model), {}
        for name, parameter in stored_parameters(build(size, vocab_size=VOCABULARY)).items():
            weights[name] = whole[name].detach()[tuple(slice(length) for length in parameter.shape)]
        return centre(reshaped(model, size, weights))

    return make


def packed(folder: Path) -> Any:
    candidate = candidate_of_classifier(dense(folder))
    uniform(candidate, Uniform(method="uniform", bits=4), NO_BENCH)
    save_compressed(candidate, folder)
    return load_model(folder)


def quanto(folder: Path) -> Any:
    candidate = candidate_of_classifier(dense(folder))
    quantize_layers(candidate.model, linear_layers(candidate.model), 8)
    freeze(candidate.model)
    candidate.quanto_bits = 8
    save_compressed(candidate, folder)
    return load_model(folder)


SHAPES: dict[str, Callable[[Path], Any]] = {
    "dense": dense,
    "ffn": cut(ffn_dim=72),
    "layers": cut(num_layers=1),
    "heads": cut(num_heads=1, head_dim=32),
    "packed": packed,
    "quanto": quanto,
}


@pytest.fixture(scope="module", params=SHAPES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return SHAPES[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def plain() -> Any:
    return encoder(encoder_size(64))


def sentences(count: int = 60) -> list[list[int]]:
    """Return sentences of 3 to 64 positions, the longest and the shortest side by side."""
    rng = np.random.default_rng(0)
    lengths = [3, 64, *rng.integers(3, 65, size=count - 2).tolist()]
    return [[0, *rng.integers(5, VOCABULARY, size=length - 2).tolist(), 2] for length in lengths]


def alone(model: Any, ids: list[list[int]]) -> np.ndarray:
    """Return transformers' logits of one sentence at a time, unpadded and without a mask."""
    with torch.no_grad():
        return np.concatenate([model.eval()(input_ids=torch.tensor([row])).logits.numpy() for row in ids])


def test_every_engine_gives_the_model_s_own_logits(model: Any) -> None:
    ids = sentences()
    expected = alone(model, ids)
    assert len(set(expected.argmax(axis=1).tolist())) > 1
    assert expected.std(axis=0).min() > 0.3  # the sentences matter
    flat = plain_model(model) if any(hasattr(weight, "qtype") for weight in model.parameters()) else model
    for engine in (start_classifier("torch", model), start_classifier("onnxruntime-float32", flat)):
        for batch in (1, 7, len(ids)):
            found = np.concatenate([engine.classify(ids[i : i + batch]) for i in range(0, len(ids), batch)])
            assert found.dtype == np.float32
            assert np.abs(found - expected).max() < 1e-4, (engine.name, batch)


def test_int8_is_smaller_and_close(model: Any) -> None:
    flat = plain_model(model) if any(hasattr(weight, "qtype") for weight in model.parameters()) else model
    exact, narrow = (start_classifier(name, flat) for name in ON_GRAPHS)
    ids = sentences(200)
    theirs, ours = exact.classify(ids).argmax(axis=1), narrow.classify(ids).argmax(axis=1)
    assert (theirs == ours).mean() > 0.8  # of random classifiers, which are undecided
    assert narrow.size_bytes < 0.7 * exact.size_bytes  # of which the graph itself takes some 90 kB


def test_onnx_weights_cannot_saturate(plain: Any, tmp_path: Path) -> None:
    """Two products of 8-bit inputs and weights of at most 64 fit into the 16 bits that older processors sum them in."""
    convert(plain, tmp_path, weights="int8")
    graph = onnx.load(tmp_path / GRAPH).graph
    products = {name for node in graph.node if node.op_type == "MatMulInteger" for name in node.input}
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in products]
    matrices = [weight for weight in weights if weight.ndim == 2]
    assert len(matrices) == 2 * 6 + 2  # of two layers, and the head
    assert all(weight.dtype == np.int8 and 60 <= np.abs(weight.astype(int)).max() <= 64 for weight in matrices)
    floats = [
        tensor for tensor in graph.initializer if len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT
    ]
    assert not floats  # embeddings too


@pytest.mark.parametrize("name", ON_GRAPHS)
def test_a_directory_opens_again(plain: Any, name: str, tmp_path: Path, capfd: Any) -> None:
    convert(plain, tmp_path / "made", weights=name.removeprefix("onnxruntime-"))
    size = sum(path.stat().st_size for path in (tmp_path / "made").iterdir())
    (tmp_path / "made").rename(tmp_path / "moved")
    (tmp_path / "moved" / "README.md").write_text("not the engine's")
    opened, started = OnnxRuntimeClassifier.open(tmp_path / "moved", threads=2), start_classifier(name, plain)
    assert opened.name == started.name == name
    assert opened.size_bytes == started.size_bytes == size
    assert (opened.classify(sentences()) == started.classify(sentences())).all()
    assert capfd.readouterr() == ("", "")


def test_a_model_stays_as_it_was(plain: Any) -> None:
    model = copy.deepcopy(plain).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config, numbers = copy.deepcopy(model.config.to_dict()), torch.get_rng_state()
    for name in CLASSIFIER_ENGINES:
        start_classifier(name, model).classify(sentences(3))
    assert model.training
    assert model.config.to_dict() == config
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), numbers)


def test_rounded_inputs_are_torch_s_alone(plain: Any) -> None:
    rounding = copy.deepcopy(plain)
    round_inputs(rounding, {LAYER: range_of(-1.0, 1.0, 3)})
    found = start_classifier("torch", rounding).classify(sentences())
    assert np.abs(found - alone(rounding, sentences())).max() < 1e-4
    assert np.abs(found - alone(plain, sentences())).max() > 1e-2
    for name in ON_GRAPHS:
        with pytest.raises(EngineRefusal, match=f"ONNX Runtime takes weights alone.* rounds the inputs of {LAYER}"):
            start_classifier(name, rounding)


def test_what_an_engine_cannot_take_is_refused(plain: Any) -> None:
    for name in set(ENGINES) - set(CLASSIFIER_ENGINES):
        with pytest.raises(
            EngineRefusal, match=f"engine '{name}' runs no classifiers; use one of onnxruntime-float32, "
        ):
            start_classifier(name, plain)
    for name in ENGINES:
        with pytest.raises(EngineRefusal, match=f"engine '{name}' translates, which an encoder cannot"):
            start_engine(name, plain, None)
    for name in CLASSIFIER_ENGINES:
        with pytest.raises(EngineRefusal, match="not with RobertaPreLayerNormForMaskedLM; give it a classifier"):
            start_classifier(name, encoder(encoder_size(num_labels=0)))
    layers = copy.deepcopy(plain)
    quantize_layers(layers, [LAYER], 8)
    freeze(layers)
    with pytest.raises(
        EngineRefusal, match=rf"ONNX Runtime takes fp32 weights, but {LAYER}.weight is optimum-quanto's"
    ):
        start_classifier("onnxruntime-int8", layers)
    with pytest.raises(StudyError, match="no engine 'onnxruntime'; did you mean 'onnxruntime-"):
        start_classifier("onnxruntime", plain)


def test_a_damaged_directory_is_one_line(plain: Any, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"config\.json: no such file"):
        OnnxRuntimeClassifier.open(tmp_path)
    convert(plain, tmp_path, weights="float32")
    (tmp_path / GRAPH).write_bytes((tmp_path / GRAPH).read_bytes()[:1000])
    with pytest.raises(StudyError, match=f"{tmp_path}: .*cannot open it .*; convert the model again") as found:
        OnnxRuntimeClassifier.open(tmp_path)
    assert len(str(found.value).splitlines()) == 1
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StudyError, match=r"config\.json: not a classifier's"):
        OnnxRuntimeClassifier.open(tmp_path)
    with pytest.raises(StudyError, match="has no weights 'int4' here; did you mean 'int"):
        convert(plain, tmp_path, weights="int4")
