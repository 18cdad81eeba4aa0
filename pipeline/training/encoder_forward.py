"""From a batch to the states that an encoder's head scores: by transformers' own modules, or by fused sublayers on a CPU.

What comes out fits the objectives of translation models: a masked LM's states times the tied embedding are logits over the
vocabulary, and a classifier's, a 1 behind each, times its classes' rows, a bias behind each, are logits over classes.
Heads take little of the time and are computed by autograd.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.corpora.batches import IGNORED, Batch
from pipeline.models.parameters import ENCODER_TABLE
from pipeline.training.parametrization import rate_factors
from pipeline.training.precision import autocast
from pipeline.training.sublayers import Embed, FeedForward, Layout, Norm, SelfAttention
from pipeline.training.weights import FlatWeights, Leaf

ROW_MULTIPLE = 128
"""Rows in bf16 are filled up to a multiple of this: oneDNN compiles a kernel for every new shape, which takes longer than a step."""

_ENCODER = "roberta_prelayernorm."


class _Body(Protocol):
    """What comes before the head."""

    dtype: torch.dtype  # of the matmuls

    def hidden(self, batch: Batch) -> Tensor:
        """Return the final states (R, d), R >= B x S: row b x S + s is position s of sentence b."""
        ...


def _filled(rows: Tensor) -> Tensor:
    """Return rows (n, d) with rows of 0 behind them, up to one of a few numbers of rows where a kernel is compiled for each."""
    if rows.dtype != torch.bfloat16:
        return rows
    return functional.pad(rows, (0, 0, 0, -len(rows) % ROW_MULTIPLE))


class MaskedHead:
    """linear, GELU, layer norm, at the scored positions alone; the others' states are 0."""

    def __init__(self, model: Any, weights: FlatWeights) -> None:
        self._weights = weights

    def states(self, body: _Body, batch: Batch) -> Tensor:
        """Return (R, d) in the matmuls' format."""
        hidden, dtype = body.hidden(batch), body.dtype
        index = (batch.labels.flatten() != IGNORED).nonzero().squeeze(1)
        weights = self._weights
        rows = _filled(hidden.index_select(0, index).to(dtype))
        rows = functional.linear(
            rows, weights["lm_head.dense.weight"].to(dtype), weights["lm_head.dense.bias"].to(dtype)
        )
        norm = weights["lm_head.layer_norm.weight"], weights["lm_head.layer_norm.bias"]
        normed: Tensor = Norm.apply(functional.gelu(rows).float(), *norm, dtype)
        return normed.new_zeros(hidden.shape).index_copy(0, index, normed[: len(index)])

    @property
    def output_weight(self) -> Tensor:
        """The output projection (V, d), tied with the embedding."""
        return self._weights[f"{ENCODER_TABLE}.weight"]


class ClassHead:
    """linear, tanh, at the first position of each sentence, in fp32; dropout before both matmuls."""

    def __init__(self, model: Any, weights: FlatWeights) -> None:
        self._model, self._weights = model, weights

    def states(self, body: _Body, batch: Batch) -> Tensor:
        """Return (B, d + 1) in fp32: what the classes' rows are multiplied by, and a 1 for their biases."""
        count, length = batch.source.shape
        weights, dropout = self._weights, self._model.classifier.dropout
        first = body.hidden(batch)[: count * length : length].float()
        inner = functional.linear(dropout(first), weights["classifier.dense.weight"], weights["classifier.dense.bias"])
        return functional.pad(dropout(inner.tanh()), (0, 1), value=1.0)

    @property
    def output_weight(self) -> Tensor:
        """The classes' rows, their biases behind them (C, d + 1)."""
        bias = self._weights["classifier.out_proj.bias"].unsqueeze(1)
        return torch.cat([self._weights["classifier.out_proj.weight"], bias], dim=1)


def _head_of(model: Any, weights: FlatWeights) -> MaskedHead | ClassHead:
    return ClassHead(model, weights) if hasattr(model, "classifier") else MaskedHead(model, weights)


class ReferenceEncoder:
    """transformers' own modules, under autocast; on a GPU with fused attention, compiled if so wished."""

    def __init__(
        self, model: Any, *, precision: str, mup_base_width: int | None = None, compiled: bool = False
    ) -> None:
        self.model, self.precision = model, precision
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        if model.device.type == "cuda":
            model.set_attn_implementation("sdpa")  # of this object alone: a saved config does not name it
        body = model.roberta_prelayernorm
        self._encoder = torch.compile(body, dynamic=True) if compiled else body
        rates = rate_factors(model, base_width=mup_base_width)
        self.weights = FlatWeights(
            model, [Leaf((name,), precise=True, rate=rate) for name, rate in rates.items()], dtype=torch.float32
        )
        self._head = _head_of(model, self.weights)

    def hidden(self, batch: Batch) -> Tensor:
        """Return the final states (B x S, d)."""
        with autocast(self.precision, batch.source.device):
            states = self._encoder(input_ids=batch.source, attention_mask=batch.source_mask)[0]
        return states.flatten(0, 1).to(self.dtype)

    def states(self, batch: Batch) -> Tensor:
        """Return what the head scores."""
        return self._head.states(self, batch)

    @property
    def output_weight(self) -> Tensor:
        """What the states are multiplied by."""
        weight = self._head.output_weight
        return weight.to(self.dtype) if isinstance(self._head, MaskedHead) else weight


class FusedEncoder:
    """The same computation on a CPU, sublayer by sublayer, with weights in the matmuls' format."""

    def __init__(self, model: Any, *, precision: str, mup_base_width: int | None = None) -> None:
        self.model = model
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._row_multiple = ROW_MULTIPLE if precision == "bf16" else 1
        leaves = _leaves(model, rate_factors(model, base_width=mup_base_width))
        self.weights = FlatWeights(model, leaves, dtype=self.dtype)
        self._head = _head_of(model, self.weights)
        self._first_position = model.config.pad_token_id + 1

    def states(self, batch: Batch) -> Tensor:
        """Return what the head scores."""
        return self._head.states(self, batch)

    @property
    def output_weight(self) -> Tensor:
        """What the states are multiplied by."""
        return self._head.output_weight

    def hidden(self, batch: Batch) -> Tensor:
        """Return the final states (R, d); rows beyond B x S are filling."""
        count, length = batch.source.shape
        rows = -(-count * length // self._row_multiple) * self._row_multiple
        layout = Layout(batch=count, length=length, rows=rows)
        dropout = self.model.config.hidden_dropout_prob if self.model.training else 0.0
        heads = self.model.roberta_prelayernorm.encoder.layer[0].attention.self.num_attention_heads
        mask = None
        if not bool(batch.source_mask.all()):
            seen = batch.source_mask.float().view(count, 1, 1, length)
            mask = seen.expand(count, heads, length, length).reshape(count * heads, length, length)
        x = self._embed(batch.source, layout, dropout)
        for number in range(len(self.model.roberta_prelayernorm.encoder.layer)):
            layer = f"{_ENCODER}encoder.layer.{number}."
            attention = ("attention.LayerNorm", "attention.self.query", "attention.output.dense")
            x = SelfAttention.apply(x, *self._tensors(layer, attention), heads, layout, mask, dropout)
            ffn = ("intermediate.LayerNorm", "intermediate.dense", "output.dense")
            x = FeedForward.apply(x, *self._tensors(layer, ffn), dropout)
        states: Tensor = Norm.apply(x, *self._tensors(_ENCODER, ("LayerNorm",)), self.dtype)
        return states

    def _embed(self, ids: Tensor, layout: Layout, dropout: float) -> Tensor:
        """Return the normalised sum of words', positions' and the type's rows (R, d) in fp32.

        Padding gets the next positions' rows, where transformers gives it a row of its own: nothing reads it.
        """
        embeddings = f"{_ENCODER}embeddings."
        filled = torch.full((layout.rows,), self.model.config.pad_token_id)
        filled[: layout.used] = ids.flatten()
        table = self.weights.lookup(f"{ENCODER_TABLE}.weight")
        x: Tensor = Embed.apply(table, filled, table.new_zeros(()), 1.0, layout, 0.0)
        positions = self.weights.lookup(f"{embeddings}position_embeddings.weight")
        first = self._first_position
        added = positions[first : first + layout.length] + self.weights.lookup(
            f"{embeddings}token_type_embeddings.weight"
        )
        filling = layout.rows - layout.used
        x = x + functional.pad(added.repeat(layout.batch, 1), (0, 0, 0, filling))
        normed: Tensor = Norm.apply(x, *self._tensors(embeddings, ("LayerNorm",)), torch.float32)
        return functional.dropout(normed, dropout, training=True)

    def _tensors(self, place: str, names: tuple[str, ...]) -> tuple[Tensor, ...]:
        return tuple(self.weights[f"{place}{name}.{kind}"] for name in names for kind in ("weight", "bias"))


def _leaves(model: Any, rates: dict[str, float]) -> list[Leaf]:
    """Return the leaves of an encoder: q, k and v side by side; norms and a classifier's head in fp32."""
    layers = range(len(model.roberta_prelayernorm.encoder.layer))
    together = [
        tuple(f"{_ENCODER}encoder.layer.{number}.attention.self.{part}.{kind}" for part in ("query", "key", "value"))
        for number in layers
        for kind in ("weight", "bias")
    ]
    taken = {name for group in together for name in group}
    alone = [name for name in rates if name not in taken]
    precise = ("LayerNorm", "layer_norm", "classifier.")
    return [Leaf(group, rate=rates[group[0]]) for group in together] + [
        Leaf((name,), precise=any(part in name for part in precise), rate=rates[name]) for name in alone
    ]


def is_fusable(model: Any) -> bool:
    """Tell whether the fused sublayers compute this encoder: ReLU, and dropout as in a study."""
    config = model.config
    return bool(config.hidden_act == "relu" and not config.attention_probs_dropout_prob)


def encoder_forward(
    model: Any, *, precision: str, mup_base_width: int | None = None, compiled: bool = False
) -> ReferenceEncoder | FusedEncoder:
    """Return the fastest way to run this encoder where it lies."""
    if model.device.type == "cpu" and is_fusable(model):
        return FusedEncoder(model, precision=precision, mup_base_width=mup_base_width)
    return ReferenceEncoder(model, precision=precision, mup_base_width=mup_base_width, compiled=compiled)
