"""What all models share that ONNX Runtime computes: quiet exports, int8 graphs, the options of a session."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import StudyError, nearest

WEIGHTS = ("float32", "int8")
QUANTIZED = "ort_config.json"
"""What optimum writes beside graphs that it quantized."""


def check_weights(weights: str) -> None:
    """Raise StudyError on a type of weights other than `WEIGHTS`."""
    if weights not in WEIGHTS:
        raise StudyError(f"ONNX Runtime has no weights {weights!r} here{nearest(weights, WEIGHTS)}")


def check_files(directory: Path, names: tuple[str, ...]) -> None:
    """Raise StudyError where one of a model's files is not there."""
    for name in names:
        if not (directory / name).is_file():
            raise StudyError(f"{directory / name}: no such file; convert the model again")


def cannot_open(directory: Path, error: Exception) -> StudyError:
    """Return in one line what onnxruntime, whose errors have no common class, says of a directory."""
    reason = " ".join(str(error).split())[:160]
    return StudyError(f"{directory}: ONNX Runtime cannot open it ({reason}); convert the model again")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporting says to itself (tracing, preprocessing, versions) off the user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def quantize_graph(source: Path, directory: Path, name: str) -> None:
    """Write the int8 graph of ``<source>/<name>``: a grid a column, signed weights of 7 bits, unsigned inputs of 8.

    Processors without VNNI saturate the sum of two products of 8 bits, in silence; of 7 and 8 bits they cannot. On 1000
    sentences and two models it cost 0.1 BLEU against 8 bits, at the same speed. Embeddings have one grid a table.
    """
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    config = AutoQuantizationConfig.avx512(is_static=False, per_channel=True, reduce_range=True)
    quantizer = ORTQuantizer.from_pretrained(source, file_name=name)
    quantizer.quantize(save_dir=directory, quantization_config=config, file_suffix="")


def session_options(threads: int) -> Any:
    """Return onnxruntime's options for a graph on so many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others want the cores too
    return options
