"""Where the parts of a model are: one description an architecture, for what cuts models up and looks into them.

Names are those of transformers' modules and parameters. A linear layer's weight is (outputs, inputs); the residual stream
is what every sublayer reads a norm of and adds its output to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from pipeline.errors import StudyError
from pipeline.models.architectures import class_of, is_encoder

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model

_Names = re.Pattern[str]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """An architecture's parts by their names."""

    layer: _Names  # a name within a layer: what stands before the layer's number, the number, what stands behind it
    queries: _Names  # linear layers whose outputs are the columns of heads
    hidden: _Names  # linear layers whose outputs are the hidden columns of an FFN
    source: _Names  # linear layers whose inputs are source positions; the others read one for every label
    columns: _Names  # parameters whose columns are those of the residual stream: they look up, or read from it
    rows: _Names  # parameters whose rows are those of the residual stream: they write to it, or scale it
    output: str | None = None  # the projection on the vocabulary, whose weight is one of its tables
    inner: tuple[str, str] | None = None  # a head's two linear layers, as many columns between them as the stream has
    scaled: tuple[str, ...] = ()  # tables whose rows the model multiplies by the root of its width
    sinusoids: bool = False  # positions: a column's place says its frequency

    def stream_axis(self, name: str) -> int | None:
        """Return along which axis of a parameter the residual stream's columns lie; None where it does not touch them."""
        if self.columns.fullmatch(name):
            return 1
        return 0 if self.rows.fullmatch(name) else None

    def reads_source(self, layer: str) -> bool:
        """Tell whether a linear layer's inputs are source positions."""
        return self.source.fullmatch(layer) is not None

    def block_of(self, layer: str) -> str:
        """Return what a linear layer is part of: ``model.encoder.layers.0.``, ``classifier.``."""
        found = self.layer.fullmatch(layer)
        return f"{found[1]}{found[2]}." if found else f"{layer.rpartition('.')[0]}."


ENCODER_DECODER = Parts(
    layer=re.compile(r"(model\.(?:encoder|decoder)\.layers\.)(\d+)(\..+)"),
    queries=re.compile(r".+\.(?:self|encoder)_attn\.q_proj"),
    hidden=re.compile(r".+\.fc1"),
    source=re.compile(r".+\.encoder\.layers\..+|.+\.encoder_attn\.[kv]_proj"),
    columns=re.compile(r"(?:model\.shared|lm_head|.+\.embed_(?:tokens|positions)|.+\.(?:[qkv]_proj|fc1))\.weight"),
    rows=re.compile(r".+\.(?:out_proj|fc2|\w*layer_norm)\.(?:weight|bias)"),
    output="lm_head",
    scaled=("model.encoder.embed_tokens", "model.decoder.embed_tokens"),
    sinusoids=True,
)
"""Of M2M100 and Marian."""

CLASSIFIER = Parts(
    layer=re.compile(r"(roberta_prelayernorm\.encoder\.layer\.)(\d+)(\..+)"),
    queries=re.compile(r".+\.attention\.self\.query"),
    hidden=re.compile(r".+\.intermediate\.dense"),
    source=re.compile(r".+\.encoder\.layer\..+"),
    columns=re.compile(
        r"(?:.+\.\w+_embeddings|.+\.attention\.self\.\w+|.+\.intermediate\.dense|classifier\.dense)\.weight"
    ),
    rows=re.compile(r".+\.(?:output\.dense|LayerNorm)\.(?:weight|bias)"),
    inner=("classifier.dense", "classifier.out_proj"),
)
"""Of RoBERTa-PreLayerNorm with a head for classes."""


def parts_of(model: Model) -> Parts:
    """Return where a model's parts are; StudyError on an encoder that has no head for classes."""
    if not is_encoder(model.config):
        return ENCODER_DECODER
    kind = class_of(model.config).__name__
    if "Classification" not in kind:
        raise StudyError(f"{kind}: of encoders, classifiers are compressed; finetune it first")
    return CLASSIFIER


def layers_named(model: nn.Module, names: _Names) -> list[str]:
    """Return the linear layers whose whole names match, in the model's order."""
    modules = model.named_modules()
    return [name for name, module in modules if isinstance(module, nn.Linear) and names.fullmatch(name)]
