"""The engines by name, each imported only when it is started."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from pipeline.engine_names import CLASSIFIER_ENGINES, ENGINES
from pipeline.engines.classifier import Classifier
from pipeline.engines.search import Engine, EngineRefusal
from pipeline.errors import StudyError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.models.seq2seq import Model


def start_engine(
    name: str,
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    *,
    threads: int = 1,
    batches: int = 1,
    target_tokenizer: PreTrainedTokenizerFast | None = None,
) -> Engine:
    """Make an engine run a model: `threads` work on one batch, on `batches` batches at a time where the engine can do that.

    transformers' and our own decoder take torch's number of threads, which is the caller's to set. `target_tokenizer` is
    the decoder's where it has a vocabulary of its own. StudyError on an unknown name; EngineRefusal where the engine
    cannot take the model, or this machine not the engine.
    """
    _check_translates(name, model)
    if name.startswith("ctranslate2-") and name in ENGINES:
        from pipeline.engines.ctranslate2_engine import CTranslate2Engine

        return CTranslate2Engine(
            model,
            tokenizer,
            weights=name.removeprefix("ctranslate2-"),
            inter_threads=batches,
            intra_threads=threads,
            target_tokenizer=target_tokenizer,
        )
    if name.startswith("onnxruntime-") and name in ENGINES:
        from pipeline.engines.onnxruntime_engine import OnnxRuntimeEngine

        weights = name.removeprefix("onnxruntime-")
        return OnnxRuntimeEngine(model, tokenizer, weights=weights, threads=threads, target_tokenizer=target_tokenizer)
    if name == "torch":
        from pipeline.engines.torch_engine import TorchEngine

        return TorchEngine(model, tokenizer, target_tokenizer=target_tokenizer)
    if name == "transformers":
        from pipeline.engines.transformers_engine import TransformersEngine

        return TransformersEngine(model, tokenizer, target_tokenizer=target_tokenizer)
    raise StudyError(f"no engine {name!r}{nearest(name, ENGINES)}")


def _check_translates(name: str, model: Model) -> None:
    """Raise EngineRefusal on an encoder, which no engine can translate with."""
    from pipeline.models.architectures import is_encoder

    if name in ENGINES and is_encoder(model.config):
        raise EngineRefusal(
            f"engine {name!r} translates, which an encoder cannot; it can classify where it was finetuned"
        )


def start_classifier(name: str, model: Model, *, threads: int = 1) -> Classifier:
    """Make an engine run a classifier: `threads` work on one batch; torch takes its own number, the caller's to set.

    StudyError on an unknown name; EngineRefusal where the engine cannot take the model.
    """
    if name not in ENGINES:
        raise StudyError(f"no engine {name!r}{nearest(name, CLASSIFIER_ENGINES)}")
    if name not in CLASSIFIER_ENGINES:
        raise EngineRefusal(f"engine {name!r} runs no classifiers; use one of {', '.join(CLASSIFIER_ENGINES)}")
    if name == "torch":
        from pipeline.engines.torch_classifier import TorchClassifier

        return TorchClassifier(model)
    from pipeline.engines.onnxruntime_classifier import OnnxRuntimeClassifier

    return OnnxRuntimeClassifier(model, weights=name.removeprefix("onnxruntime-"), threads=threads)


def import_engines() -> None:
    """Import the code of every engine, which is otherwise imported when one is started."""
    for module in (
        "ctranslate2_conversion",
        "ctranslate2_engine",
        "onnxruntime_classifier",
        "onnxruntime_engine",
        "torch_classifier",
        "torch_engine",
        "transformers_engine",
    ):
        importlib.import_module(f"pipeline.engines.{module}")
