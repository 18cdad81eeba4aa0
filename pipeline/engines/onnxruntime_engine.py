"""ONNX Runtime through optimum-onnx: weights in fp32, or in int8 with inputs rounded as they come (dynamic)."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

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
from pipeline.engines.search import EngineRefusal
from pipeline.engines.transformers_engine import Generate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.models.seq2seq import Model

_ARCHITECTURES = ("m2m_100", "marian")

_GRAPHS = ("encoder_model", "decoder_model", "decoder_with_past_model")
"""Three graphs: the decoder's first step makes the keys and values that its next steps read."""
_FILES = ("*.onnx", "config.json", QUANTIZED)


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


def _export(model: Model, directory: Path, target: PreTrainedTokenizerFast) -> None:
    """Trace the model's graphs in fp32 into `directory`, with config.json beside them."""
    from optimum.exporters.onnx.convert import export_models
    from optimum.exporters.utils import get_encoder_decoder_models_for_export

    model = copy.deepcopy(model).cpu().float().eval()  # tracing writes into the model's configuration
    config: Any = model.config
    with torch.random.fork_rng(devices=[]):  # the graphs are traced with random numbers
        graphs = get_encoder_decoder_models_for_export(model, _export_config(model))
        export_models(graphs, output_dir=directory, output_names=[f"{name}.onnx" for name in graphs])
    config.bos_token_id, config.eos_token_id = target.bos_token_id, target.eos_token_id
    config.save_pretrained(directory)


def convert(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    directory: str | Path,
    *,
    weights: str,
    target_tokenizer: PreTrainedTokenizerFast | None = None,
) -> None:
    """Write a model as three graphs and config.json into `directory`, which may be there already and empty.

    `weights` is float32 or int8, embeddings included; the decoder's are written twice, for its first step and the next.
    `target_tokenizer` is the decoder's where it has a vocabulary of its own. The model is left as it is. EngineRefusal on
    an architecture other than M2M100 and Marian, and where the model computes more than its weights say.
    """
    check_weights(weights)
    check_plain_weights(model, "ONNX Runtime")
    if model.config.model_type not in _ARCHITECTURES:
        raise EngineRefusal(
            f"ONNX Runtime is given {' and '.join(_ARCHITECTURES)} models here, not {model.config.model_type!r}; "
            "use engine 'transformers'"
        )
    directory, target = Path(directory), target_tokenizer or tokenizer
    directory.mkdir(parents=True, exist_ok=True)
    with quiet():
        if weights == "float32":
            _export(model, directory, target)
            return
        with tempfile.TemporaryDirectory(prefix="onnx-") as scratch:
            _export(model, Path(scratch), target)
            for name in _GRAPHS:
                quantize_graph(Path(scratch), directory, f"{name}.onnx")


class OnnxRuntimeEngine(Generate):
    """Beam search in transformers' generate over graphs that ONNX Runtime computes, one batch at a time.

    `size_bytes` is the size of its files: graphs and configuration.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerFast,
        *,
        weights: str = "float32",
        threads: int = 1,
        target_tokenizer: PreTrainedTokenizerFast | None = None,
    ) -> None:
        """Export a model in memory; `threads` compute a graph, and the search takes torch's own number of threads.

        EngineRefusal as `convert`.
        """
        with tempfile.TemporaryDirectory(prefix="onnx-") as scratch:
            convert(model, tokenizer, scratch, weights=weights, target_tokenizer=target_tokenizer)
            self._start(Path(scratch), threads=threads)

    @classmethod
    def open(cls, directory: str | Path, *, threads: int = 1) -> Self:
        """Run a directory that `convert` wrote; StudyError when it is damaged, incomplete or another program's."""
        engine = cls.__new__(cls)
        engine._start(Path(directory), threads=threads)
        return engine

    def _start(self, directory: Path, *, threads: int) -> None:
        from optimum.onnxruntime import ORTModelForSeq2SeqLM

        check_files(directory, ("config.json", *(f"{name}.onnx" for name in _GRAPHS)))
        with quiet():
            try:
                model = ORTModelForSeq2SeqLM.from_pretrained(
                    directory,
                    session_options=session_options(threads),
                    use_cache=True,
                    use_merged=False,
                    use_io_binding=False,
                    local_files_only=True,
                )
            except Exception as error:  # onnxruntime's own, which have no common class
                raise cannot_open(directory, error) from error
        config = model.config
        super().__init__(model, bos=config.bos_token_id, pad=config.pad_token_id, eos=config.eos_token_id)
        self.name = f"onnxruntime-{'int8' if (directory / QUANTIZED).is_file() else 'float32'}"
        self.size_bytes = sum(path.stat().st_size for name in _FILES for path in directory.glob(name))
