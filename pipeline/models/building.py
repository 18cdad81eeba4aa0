"""From a size to a model of its architecture: an encoder-decoder, or an encoder with a head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.size import SizeSpec

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


def config_of(size: SizeSpec, *, vocab_size: int) -> Any:
    """Return the transformers configuration of a size, without dropout."""
    from pipeline.models import encoder, seq2seq

    architecture = encoder if size.architecture == "encoder" else seq2seq
    return architecture.config_of(size, vocab_size=vocab_size)


def build(size: SizeSpec, *, vocab_size: int, dropout: float = 0.0, seed: int | None = None) -> Model:
    """Return a freshly initialised fp32 model of this size; `seed` seeds torch's global generator first."""
    from pipeline.models import encoder, seq2seq

    architecture: Any = encoder if size.architecture == "encoder" else seq2seq
    model: Model = architecture.build(size, vocab_size=vocab_size, dropout=dropout, seed=seed)
    return model


def set_dropout(model: Model, dropout: float) -> None:
    """Set the dropout of embeddings and residuals in place; attention and FFNs have none."""
    from pipeline.models import encoder, seq2seq
    from pipeline.models.architectures import is_encoder

    architecture: Any = encoder if is_encoder(model.config) else seq2seq
    architecture.set_dropout(model, dropout)
