"""ONNX Runtime through optimum-onnx: weights in fp32, or in int8 with inputs rounded as they come (dynamic)."""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engines.plain_weights import check_plain_weights
from pipeline.engines.search import EngineRefusal
from pipeline.engines.transformers_engine import Generate
from pipeline.errors import StudyError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.models.seq2seq import Model

WEIGHTS = ("float32", "int8")
_GRAPHS = ("encoder_model", "decoder_model", "decoder_with_past_model")
"""Three graphs: the decoder's first step makes the keys and values that its next steps read."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what exporting says to itself (tracing, preprocessing, versions) off the user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _export_config(model: Model) -> Any:
    """Return optimum's description of the model's graphs, with the shape of its attention's keys and values.

    optimum reckons d_model / heads columns a head, and the encoder's heads for what the decoder reads of it.
    """
    from optimum.exporters.onnx.model_configs import M2M100OnnxConfig
    from optimum.utils import DummySeq2SeqPastKeyValuesGenerator

    attention = model.model.decoder.layers[0].encoder_attn
    heads, head_dim = attention.num_heads, attention.head_dim

    class Past(DummySeq2SeqPastKeyValuesGenerator):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.encoder_num_attention_heads = self.decoder_num_attention_heads = heads
            self.encoder_hidden_size = self.decoder_hidden_size = heads * head_dim

    class Config(M2M100OnnxConfig):
        DUMMY_INPUT_GENERATOR_CLASSES = (
            *M2M100OnnxConfig.DUMMY_INPUT_GENERATOR_CLASSES[:2],
            {"feature-extraction": Past},
        )

    return Config(model.config, task="text2text-generation", use_past=True)


def _export(model: Model, directory: Path) -> None:
    """Trace the model's graphs in fp32 into `directory`, with config.json beside them."""
    from optimum.exporters.onnx.convert import export_models
    from optimum.exporters.utils import get_encoder_decoder_models_for_export

    model = copy.deepcopy(model).cpu().float().eval()  # tracing writes into the model's configuration
    graphs = get_encoder_decoder_models_for_export(model, _export_config(model))
    export_models(graphs, output_dir=directory, output_names=[f"{name}.onnx" for name in graphs])
    model.config.save_pretrained(directory)


def _quantize(source: Path, directory: Path) -> None:
    """Write the int8 graphs of the fp32 ones in `source`.

    Weights are unsigned: with signed ones, processors without VNNI saturate the sums of two products.
    """
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    for name in _GRAPHS:
        config = AutoQuantizationConfig.avx2(is_static=False, per_channel=False)
        quantizer = ORTQuantizer.from_pretrained(source, file_name=f"{name}.onnx")
        quantizer.quantize(save_dir=directory, quantization_config=config, file_suffix="")


def convert(model: Model, tokenizer: PreTrainedTokenizerFast, directory: str | Path, *, weights: str) -> None:
    """Write a model into `directory`, which need not exist: three graphs and config.json. `weights`: float32 or int8.

    EngineRefusal where the model computes more than its weights say.
    """
    if weights not in WEIGHTS:
        raise StudyError(f"ONNX Runtime has no weights {weights!r} here; known: {', '.join(WEIGHTS)}")
    check_plain_weights(model, "ONNX Runtime")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with _quiet():
        if weights == "float32":
            _export(model, directory)
            return
        with tempfile.TemporaryDirectory(prefix="onnx-") as scratch:
            _export(model, Path(scratch))
            _quantize(Path(scratch), directory)


def _load(directory: Path, threads: int) -> Any:
    import onnxruntime
    from optimum.onnxruntime import ORTModelForSeq2SeqLM

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other processes want the cores
    options.log_severity_level = 3
    return ORTModelForSeq2SeqLM.from_pretrained(
        directory,
        session_options=options,
        use_cache=True,
        use_merged=False,
        use_io_binding=False,
        local_files_only=True,
    )


class OnnxRuntimeEngine(Generate):
    """Beam search in transformers' generate over graphs that ONNX Runtime computes."""

    def __init__(
        self, model: Model, tokenizer: PreTrainedTokenizerFast, *, weights: str = "float32", threads: int = 1
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="onnx-") as scratch:
            convert(model, tokenizer, scratch, weights=weights)
            self._start(Path(scratch), tokenizer, weights=weights, threads=threads)

    def _start(self, directory: Path, tokenizer: PreTrainedTokenizerFast, *, weights: str, threads: int) -> None:
        self.name = f"onnxruntime-{weights}"
        self.size_bytes = sum((directory / f"{name}.onnx").stat().st_size for name in _GRAPHS)
        with _quiet():
            super().__init__(_load(directory, threads), tokenizer)
