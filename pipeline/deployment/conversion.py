"""The one place that turns a model directory into an engine's files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.deployment.forms import PACKED, Form
from pipeline.engines.search import BeamSearch, EngineRefusal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.models.seq2seq import Model


def never_produced(target: PreTrainedTokenizerFast) -> list[str]:
    """Return the tokens that no hypothesis may have: <s> and <pad>."""
    return [str(target.bos_token), str(target.pad_token)]


def generation_settings(model: Model, target: PreTrainedTokenizerFast, search: BeamSearch) -> Any:
    """Return transformers' GenerationConfig whose plain `generate` is our search; ids that the model's own rules out stay so."""
    from pipeline.engines.transformers_engine import generation_config

    start: Any = model.config.decoder_start_token_id
    config = generation_config(
        search,
        start=start,
        bos=target.bos_token_id,
        pad=target.pad_token_id,
        eos=target.eos_token_id,
    )
    own = getattr(model.generation_config, "suppress_tokens", None) or []
    config.suppress_tokens = sorted({*config.suppress_tokens, *own})
    return config


def write_weights(
    form: Form,
    model: Model,
    tokenizers: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast],
    source: Path,
    directory: Path,
) -> None:
    """Write the weights and configuration of the model in `source` into `directory` in a form.

    `tokenizers` are those of source and target. EngineRefusal where the form cannot hold the model.
    """
    if _written_alike(form, model, source, directory, engine="ctranslate2-float32"):
        return
    if form.family == "ctranslate2":
        from pipeline.engines.ctranslate2_conversion import convert
    else:
        from pipeline.engines.onnxruntime_engine import convert
    convert(model, tokenizers[0], directory, weights=str(form.weights), target_tokenizer=tokenizers[1])


def write_classifier(form: Form, model: Model, source: Path, directory: Path) -> None:
    """Write the weights and configuration of the classifier in `source` into `directory` in a form, as `write_weights`."""
    from pipeline.engines.onnxruntime_classifier import convert

    if not _written_alike(form, model, source, directory, engine="onnxruntime-float32"):
        convert(model, directory, weights=str(form.weights))


def _written_alike(form: Form, model: Model, source: Path, directory: Path, *, engine: str) -> bool:
    """Write a form that is no engine's own, and tell whether it was one; `engine` takes what transformers cannot load."""
    from pipeline.compression.activation_rounding import rounds_inputs

    if form.name == PACKED:
        _copy_weights(source, directory)
    elif rounds_inputs(model):
        raise EngineRefusal(
            f"{source}: it rounds inputs on calibrated ranges, which {form.name} cannot; export it with --engine packed"
        )
    elif form.family == "transformers":
        _write_transformers(model, source, directory, engine=engine)
    else:
        return False
    return True


def _write_transformers(model: Model, source: Path, directory: Path, *, engine: str) -> None:
    from pipeline.compression.formats import DENSE, weights_file
    from pipeline.models.architectures import save_plain
    from pipeline.models.pruned import is_heads_pruned

    if is_heads_pruned(model.config):
        raise EngineRefusal(
            f"{source}: its attention heads were pruned, a shape that transformers cannot load; "
            f"export it with --engine {engine} or packed"
        )
    if weights_file(source).name == DENSE:
        _copy_weights(source, directory)
    else:
        save_plain(model, directory)


def _copy_weights(source: Path, directory: Path) -> None:
    """Copy the weights file as it is, with config.json and what belongs to optimum-quanto's."""
    from pipeline.compression.formats import QUANTO, weights_file
    from pipeline.compression.quanto_files import MAP

    weights = weights_file(source)
    for path in (weights, source / "config.json", *([source / MAP] if weights.name == QUANTO else [])):
        shutil.copyfile(path, directory / path.name)
