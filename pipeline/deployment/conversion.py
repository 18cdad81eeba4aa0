"""The one place that turns a model directory into an engine's files, and opens those that need transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.deployment.forms import Form
from pipeline.engines.search import BeamSearch, Engine, EngineRefusal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.models.seq2seq import Model


def load_plain(directory: Path) -> Model:
    """Load a model directory of any kind as ordinary layers; rounded inputs stay rounded."""
    from pipeline.compression.formats import QUANTO, load_model, weights_file
    from pipeline.compression.quanto_files import plain_model

    model = load_model(directory)
    return plain_model(model) if weights_file(directory).name == QUANTO else model


def suppressed_tokens(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return the tokens that no hypothesis may have: <s> and <pad>."""
    return [str(tokenizer.bos_token), str(tokenizer.pad_token)]


def generation_settings(model: Model, tokenizer: PreTrainedTokenizerFast, search: BeamSearch) -> Any:
    """Return transformers' GenerationConfig whose plain `generate` is our search."""
    from transformers import GenerationConfig

    return GenerationConfig(
        num_beams=search.beam,
        **({"length_penalty": search.length_penalty, "early_stopping": True} if search.beam > 1 else {}),
        max_new_tokens=search.max_length,
        min_new_tokens=1,
        do_sample=False,
        suppress_tokens=[tokenizer.bos_token_id, tokenizer.pad_token_id],
        renormalize_logits=True,
        decoder_start_token_id=model.config.decoder_start_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def write_weights(form: Form, model: Model, tokenizer: PreTrainedTokenizerFast, source: Path, directory: Path) -> None:
    """Write a model's weights and configuration into `directory` in a form; EngineRefusal where the form cannot hold it."""
    from pipeline.compression.activation_rounding import rounds_inputs
    from pipeline.models.pruned import is_heads_pruned

    if form.name == "packed":
        _copy_weights(source, directory)
        return
    if rounds_inputs(model):
        raise EngineRefusal(
            f"{source}: it rounds inputs on calibrated ranges, which {form.name} cannot; export it with --engine packed"
        )
    if form.family == "ctranslate2":
        from pipeline.engines.ctranslate2_engine import convert

        convert(model, tokenizer, directory, weights=str(form.weights))
    elif form.family == "onnxruntime":
        from pipeline.engines.onnxruntime_engine import convert as convert_onnx

        convert_onnx(model, tokenizer, directory, weights=str(form.weights))
    else:
        if is_heads_pruned(model.config):
            raise EngineRefusal(
                f"{source}: its attention heads were pruned, a shape that transformers cannot load; "
                "export it with --engine ctranslate2-float32 or packed"
            )
        model.save_pretrained(directory, safe_serialization=True)


def _copy_weights(source: Path, directory: Path) -> None:
    """Copy the weights file as it is, with config.json and what belongs to optimum-quanto's."""
    import shutil

    from pipeline.compression.formats import QUANTO, weights_file
    from pipeline.compression.quanto_files import MAP

    weights = weights_file(source)
    for path in (weights, source / "config.json", *([source / MAP] if weights.name == QUANTO else [])):
        shutil.copyfile(path, directory / path.name)


def open_onnxruntime(directory: Path, tokenizer: PreTrainedTokenizerFast, *, weights: str, threads: int) -> Engine:
    """Open graphs that `write_weights` wrote."""
    from pipeline.engines.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine.open(directory, tokenizer, weights=weights, threads=threads)
