"""Classifiers in ONNX Runtime: one graph from ids to logits, in fp32 or in int8 with inputs rounded as they come (dynamic)."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from pipeline.engines.classifier import Logits, check_classifier, padded
from pipeline.engines.onnx_graphs import (
    QUANTIZED,
    cannot_open,
    check_files,
    check_weights,
    quantize_graph,
    quiet,
    session_options,
)
from pipeline.engines.plain_weights import check_plain_weights
from pipeline.errors import StudyError
from pipeline.files import read_json

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model

GRAPH = "model.onnx"
_FILES = (GRAPH, "config.json", QUANTIZED)


def _export(model: Model, directory: Path) -> None:
    """Trace the model's forward pass in fp32 into `directory`, for any batch and length, with config.json beside it.

    optimum knows no RoBERTa-PreLayerNorm; its inputs and outputs are RoBERTa's, and the graph is what the modules do.
    """
    from optimum.exporters.onnx.convert import export
    from optimum.exporters.onnx.model_configs import RobertaOnnxConfig

    model = copy.deepcopy(model).cpu().float().eval()  # tracing writes into the model's configuration
    config: Any = model.config
    config.save_pretrained(directory)
    with torch.random.fork_rng(devices=[]):  # the graph is traced with random numbers
        export(model, RobertaOnnxConfig(config, task="text-classification"), directory / GRAPH)


def convert(model: Model, directory: str | Path, *, weights: str) -> None:
    """Write a classifier as a graph and config.json into `directory`, which may be there already and empty.

    `weights` is float32 or int8, embeddings included. Pruned heads are in the graph like any others. The model is left as
    it is. EngineRefusal on what is no classifier, and where the model computes more than its weights say.
    """
    check_weights(weights)
    check_classifier(model.config, "ONNX Runtime")
    check_plain_weights(model, "ONNX Runtime")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with quiet():
        if weights == "float32":
            _export(model, directory)
            return
        with tempfile.TemporaryDirectory(prefix="onnx-") as scratch:
            _export(model, Path(scratch))
            quantize_graph(Path(scratch), directory, GRAPH)


class OnnxRuntimeClassifier:
    """A graph that ONNX Runtime computes, one batch at a time; `size_bytes` is the size of its files."""

    def __init__(self, model: Model, *, weights: str = "float32", threads: int = 1) -> None:
        """Export a model in memory; `threads` compute the graph. EngineRefusal as `convert`."""
        with tempfile.TemporaryDirectory(prefix="onnx-") as scratch:
            convert(model, scratch, weights=weights)
            self._start(Path(scratch), threads=threads)

    @classmethod
    def open(cls, directory: str | Path, *, threads: int = 1) -> Self:
        """Run a directory that `convert` wrote; StudyError when it is damaged, incomplete or another program's."""
        engine = cls.__new__(cls)
        engine._start(Path(directory), threads=threads)
        return engine

    def _start(self, directory: Path, *, threads: int) -> None:
        import onnxruntime

        check_files(directory, ("config.json", GRAPH))
        config = read_json(directory / "config.json")
        if not isinstance(config, dict) or not isinstance(config.get("pad_token_id"), int):
            raise StudyError(f"{directory / 'config.json'}: not a classifier's; convert the model again")
        self.pad: int = config["pad_token_id"]
        try:
            self.session = onnxruntime.InferenceSession(
                str(directory / GRAPH), session_options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own, which have no common class
            raise cannot_open(directory, error) from error
        self.name = f"onnxruntime-{'int8' if (directory / QUANTIZED).is_file() else 'float32'}"
        self.size_bytes = sum((directory / name).stat().st_size for name in _FILES if (directory / name).is_file())

    def classify(self, ids: list[list[int]]) -> Logits:
        """Return the logits of one batch."""
        source, mask = padded(ids, self.pad)
        (logits,) = self.session.run(None, {"input_ids": source, "attention_mask": mask})
        return np.asarray(logits, dtype=np.float32)
