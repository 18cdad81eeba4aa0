"""From a batch to the decoder's final states: by transformers' own modules, or by fused sublayers on a CPU.

Both read the same weights and give the same numbers (tests hold them to 1e-5 in fp32). transformers' modules under
autocast are the reference, what a GPU runs, and what imported models of other architectures train with; on a CPU the
fused sublayers are several times faster.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from pipeline.corpora.batches import Batch
from pipeline.models.architectures import is_encoder, is_plain
from pipeline.models.seq2seq import PAD
from pipeline.training.devices import compiles
from pipeline.training.encoder_forward import ROW_MULTIPLE, encoder_forward
from pipeline.training.parametrization import rate_factors
from pipeline.training.precision import autocast
from pipeline.training.sublayers import (
    CrossAttention,
    Embed,
    FeedForward,
    KeysAndValues,
    Layout,
    Norm,
    SelfAttention,
)
from pipeline.training.weights import FlatWeights, Leaf

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


class Forward(Protocol):
    """A model as training sees it."""

    weights: FlatWeights

    def states(self, batch: Batch) -> Tensor:
        """Return the states that are scored (R, d), R >= B x T: row b x T + t is what the labels' position t of sentence b has."""
        ...

    @property
    def output_weight(self) -> Tensor:
        """The output projection (V, d), in the format of the states: of words, as a rule the embedding; of classes, their rows."""
        ...


class ReferenceForward:
    """transformers' own modules, under autocast; on a GPU with fused attention, compiled if so wished."""

    def __init__(
        self, model: Model, *, precision: str, mup_base_width: int | None = None, compiled: bool = False
    ) -> None:
        self.model = model
        self.precision = precision
        if model.device.type == "cuda":
            model.set_attn_implementation("sdpa")  # of this object alone: a saved config does not name it
        # Compiled beside the model, whose parameters keep their names; dynamic, as every batch has another shape.
        self._encoder_decoder = torch.compile(model.model, dynamic=True) if compiled else model.model
        rates = rate_factors(model, base_width=mup_base_width)
        leaves = [Leaf((name,), precise=True, rate=rate) for name, rate in rates.items()]
        self.weights = FlatWeights(model, leaves, dtype=torch.float32)

    def states(self, batch: Batch) -> Tensor:
        """Return the decoder's final states (B x T, d) in the format of the matmuls."""
        with autocast(self.precision, batch.source.device):
            states = self._encoder_decoder(
                input_ids=batch.source,
                attention_mask=batch.source_mask,
                decoder_input_ids=batch.decoder_input,
                use_cache=False,
            )[0]
        return states.flatten(0, 1).to(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @property
    def output_weight(self) -> Tensor:
        """The output projection (V, d)."""
        return self.model.lm_head.weight.to(self._dtype)


class FusedForward:
    """The same computation on a CPU, sublayer by sublayer, with weights in the matmuls' format."""

    def __init__(self, model: Model, *, precision: str, mup_base_width: int | None = None) -> None:
        self.model = model
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._row_multiple = ROW_MULTIPLE if precision == "bf16" else 1
        config = model.config
        if config.activation_function != "relu" or config.attention_dropout or config.activation_dropout:
            raise ValueError("fused sublayers know ReLU, and dropout on embeddings and residuals alone")
        self.weights = FlatWeights(
            model, _leaves(model, rate_factors(model, base_width=mup_base_width)), dtype=self.dtype
        )
        self._positions = model.model.encoder.embed_positions.weights.detach()
        self._first_position = PAD + 1

    @property
    def output_weight(self) -> Tensor:
        """The output projection (V, d)."""
        return self.weights["model.shared.weight"]

    def states(self, batch: Batch) -> Tensor:
        """Return the decoder's final states (R, d); rows beyond B x T are filling."""
        model, config = self.model.model, self.model.config
        count, source_length = batch.source.shape
        source = self._layout(count, source_length)
        target = self._layout(count, batch.decoder_input.shape[1])
        dropout = config.dropout if self.model.training else 0.0
        seen = self._source_mask(batch)

        x = self._embed(batch.source, source, dropout)
        for number, layer in enumerate(model.encoder.layers):
            name, heads = f"model.encoder.layers.{number}.", layer.self_attn.num_heads
            mask = None if seen is None else self._spread(seen, heads, source_length)
            x = SelfAttention.apply(x, *self._self_attention(name), heads, source, mask, dropout)
            x = FeedForward.apply(x, *self._feed_forward(name), dropout)
        memory = Norm.apply(x, *self._pair("model.encoder.layer_norm"), self.dtype)

        layers = model.decoder.layers
        causal = torch.ones(target.length, target.length).tril_()
        heads = layers[0].encoder_attn.num_heads
        cross = self._pair("model.decoder.layers.0.encoder_attn.k_proj")
        keys_and_values = KeysAndValues.apply(memory, *cross, 2 * len(layers), heads, source).unbind(0)
        mask = None if seen is None else self._spread(seen, heads, target.length)
        x = self._embed(batch.decoder_input, target, dropout)
        for number, layer in enumerate(layers):
            name = f"model.decoder.layers.{number}."
            x = SelfAttention.apply(x, *self._self_attention(name), layer.self_attn.num_heads, target, causal, dropout)
            k, v = keys_and_values[2 * number : 2 * number + 2]
            x = CrossAttention.apply(x, *self._cross_attention(name), k, v, heads, target, mask, dropout)
            x = FeedForward.apply(x, *self._feed_forward(name), dropout)
        states: Tensor = Norm.apply(x, *self._pair("model.decoder.layer_norm"), self.dtype)
        return states

    def _layout(self, batch: int, length: int) -> Layout:
        rows = -(-batch * length // self._row_multiple) * self._row_multiple
        return Layout(batch=batch, length=length, rows=rows)

    def _embed(self, ids: Tensor, layout: Layout, dropout: float) -> Tensor:
        filled = torch.full((layout.rows,), PAD)
        filled[: layout.used] = ids.flatten()
        positions = self._positions[self._first_position : self._first_position + layout.length]
        table = self.weights.lookup("model.shared.weight")
        x: Tensor = Embed.apply(table, filled, positions, math.sqrt(self.model.config.d_model), layout, dropout)
        return x

    @staticmethod
    def _source_mask(batch: Batch) -> Tensor | None:
        """Return 1 on source tokens (B, S); None where there is no padding to hide."""
        return None if bool(batch.source_mask.all()) else batch.source_mask.float()

    @staticmethod
    def _spread(seen: Tensor, heads: int, queries: int) -> Tensor:
        """Return a mask (B, S) for all heads and queries, (B x heads, queries, S): flat products are the fast ones."""
        count, keys = seen.shape
        return seen.view(count, 1, 1, keys).expand(count, heads, queries, keys).reshape(count * heads, queries, keys)

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def _self_attention(self, layer: str) -> tuple[Tensor, ...]:
        names = ("self_attn_layer_norm", "self_attn.q_proj", "self_attn.out_proj")
        return tuple(tensor for name in names for tensor in self._pair(layer + name))

    def _cross_attention(self, layer: str) -> tuple[Tensor, ...]:
        names = ("encoder_attn_layer_norm", "encoder_attn.q_proj", "encoder_attn.out_proj")
        return tuple(tensor for name in names for tensor in self._pair(layer + name))

    def _feed_forward(self, layer: str) -> tuple[Tensor, ...]:
        return tuple(tensor for name in ("final_layer_norm", "fc1", "fc2") for tensor in self._pair(layer + name))


def _leaves(model: Any, rates: dict[str, float]) -> list[Leaf]:
    """Return the leaves of an encoder-decoder: q, k and v side by side, and all layers' cross-attention keys and values."""
    together: list[tuple[str, ...]] = []
    for side in ("encoder", "decoder"):
        for number in range(len(getattr(model.model, side).layers)):
            layer = f"model.{side}.layers.{number}."
            together.append(tuple(f"{layer}self_attn.{part}_proj" for part in "qkv"))
    decoder = range(len(model.model.decoder.layers))
    together.append(tuple(f"model.decoder.layers.{i}.encoder_attn.{part}_proj" for i in decoder for part in "kv"))
    fused = [tuple(f"{name}.{kind}" for name in group) for group in together for kind in ("weight", "bias")]
    taken = {name for group in fused for name in group}
    alone = [name for name in rates if name not in taken]
    return [Leaf(group, rate=rates[group[0]]) for group in fused] + [
        Leaf((name,), precise="layer_norm" in name, rate=rates[name]) for name in alone
    ]


def is_fusable(model: Any) -> bool:
    """Tell whether the fused sublayers compute this model: pre-norm, its tables one matrix, ReLU, dropout as in a study."""
    config = model.config
    return bool(
        is_plain(config)
        and config.scale_embedding
        and config.activation_function == "relu"
        and not (config.attention_dropout or config.activation_dropout)
        and not (config.encoder_layerdrop or config.decoder_layerdrop)
    )


def forward_of(model: Model, *, precision: str, mup_base_width: int | None = None) -> Forward:
    """Return the fastest way to run this model where it lies; with a base width its learning rates follow muP."""
    cpu = model.device.type == "cpu"
    if is_encoder(model.config):
        return encoder_forward(
            model, precision=precision, mup_base_width=mup_base_width, compiled=not cpu and compiles()
        )
    if cpu and is_fusable(model):
        return FusedForward(model, precision=precision, mup_base_width=mup_base_width)
    return ReferenceForward(model, precision=precision, mup_base_width=mup_base_width, compiled=not cpu and compiles())
