"""A decoder that is fed one token a beam at a time, through the model's own modules.

What it adds to them is what need not be computed again: the encoder's output becomes keys and values once a sentence,
shared by its beams, and those of the tokens so far stay where they were written. When beams are reordered no cache
moves: `_reach` says which of a sentence's entries each beam descends from, and attention to the others is masked.
Because the modules are called, whatever rounds their inputs or weights does so here too.

Shapes: B sentences, K beams, S source tokens, N entries written so far (K of them a step), D the width, H heads of C
columns, V the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pipeline.engines.search import EngineRefusal

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model

_PRE_NORM = {"m2m_100": True, "marian": False}
"""By model type: whether a sublayer's norm is before it, or after the residual sum."""
_FIRST_STEPS = 32
"""Room in the caches at first; it is doubled when needed, because most sentences end long before `max_length`."""


def check_architecture(model: Model) -> None:
    """Raise EngineRefusal on a model whose decoder's order of operations is not known here."""
    if model.config.model_type not in _PRE_NORM:
        raise EngineRefusal(
            f"the decoder 'torch' knows models of type {' and '.join(_PRE_NORM)}, not {model.config.model_type}; "
            "use engine 'transformers'"
        )


class IncrementalDecoder:
    """The decoder's state for a batch of sentences."""

    def __init__(self, model: Model, sources: Tensor, present: Tensor, *, beam: int, max_length: int) -> None:
        """Encode `sources` [B, S], whose tokens are where `present` [B, S] is True, for `max_length` steps of `beam` at most."""
        self._model: Any = model
        self._decoder: Any = model.get_decoder()
        self._is_marian = model.config.model_type == "marian"
        self._pre_norm = _PRE_NORM[model.config.model_type]
        encoded = model.get_encoder()(input_ids=sources, attention_mask=present.long()).last_hidden_state  # [B, S, D]
        self._cross: list[list[Tensor]] = []  # a layer's keys and values, [B, H, S, C]
        self._caches: list[list[Tensor]] = []  # a layer's keys and values, [B, H, room for N, C]
        for layer in self._decoder.layers:
            cross, own = layer.encoder_attn, layer.self_attn
            self._cross.append([_heads(cross, part(encoded)).contiguous() for part in (cross.k_proj, cross.v_proj)])
            shape = (len(sources), own.num_heads, min(_FIRST_STEPS, max_length) * beam, own.head_dim)
            self._caches.append([encoded.new_empty(shape) for _ in range(2)])
        self._cross_mask: Tensor | None = None  # [B, 1, 1, S]
        if not present.all():
            self._cross_mask = encoded.new_zeros(present.shape).masked_fill_(~present, -torch.inf)[:, None, None]
        self._reach = encoded.new_empty((len(sources), 1, 0))  # [B, K, N]: 0 where a beam's past is, else -inf
        self._steps = self._entries = 0
        self._positions = self._position_vectors(max_length)  # [max_length, D]
        self._logits: Tensor | None = None  # [at least B K, V], written anew at every step

    def _position_vectors(self, count: int) -> Tensor:
        table = self._decoder.embed_positions
        if self._is_marian:
            vectors: Tensor = table(torch.Size([1, count]))
        else:  # it counts the tokens that are no padding
            vectors = table(torch.full((1, count), table.padding_idx + 1, device=table.weights.device))
        return vectors.view(count, -1)

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Return the logits [B, K, V] of what follows `tokens` [B, K]; the next step writes over them.

        Beam k continues beam `parents`[:, k] of the step before. K may differ from step to step.
        """
        self._extend(parents)
        hidden = self._decoder.embed_tokens(tokens)  # [B, K, D]
        if self._is_marian:  # M2M100's embedding scales by itself
            hidden = hidden * self._decoder.embed_scale
        hidden = hidden + self._positions[self._steps]
        for layer, cache, cross in zip(self._decoder.layers, self._caches, self._cross, strict=True):
            inputs = self._before(layer.self_attn_layer_norm, hidden)
            hidden = hidden + self._attend_to_past(layer.self_attn, inputs, cache)
            hidden = self._after(layer.self_attn_layer_norm, hidden)

            inputs = self._before(layer.encoder_attn_layer_norm, hidden)
            hidden = hidden + _attend(layer.encoder_attn, inputs, cross, self._cross_mask)
            hidden = self._after(layer.encoder_attn_layer_norm, hidden)

            inputs = self._before(layer.final_layer_norm, hidden)
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(inputs)))
            hidden = self._after(layer.final_layer_norm, hidden)
        self._steps += 1
        self._entries += tokens.shape[1]
        logits = self._project(self._decoder.layer_norm(hidden) if self._pre_norm else hidden)
        return logits.add_(self._model.final_logits_bias) if self._is_marian else logits

    def _extend(self, parents: Tensor) -> None:
        """Give every beam its parent's past and an entry of its own, and the caches room for it."""
        batch, beam = parents.shape
        rows = torch.arange(batch, device=parents.device).unsqueeze(1)
        own = self._reach.new_full((beam, beam), -torch.inf).fill_diagonal_(0.0)
        self._reach = torch.cat([self._reach[rows, parents], own.expand(batch, -1, -1)], dim=2)
        room = self._caches[0][0].shape[2]
        if self._entries + beam > room:
            self._caches = [[pad(stored, (0, 0, 0, room)) for stored in cache] for cache in self._caches]

    def _before(self, norm: Any, inputs: Tensor) -> Tensor:
        normed: Tensor = norm(inputs) if self._pre_norm else inputs
        return normed

    def _after(self, norm: Any, summed: Tensor) -> Tensor:
        normed: Tensor = summed if self._pre_norm else norm(summed)
        return normed

    def _attend_to_past(self, attention: Any, inputs: Tensor, cache: list[Tensor]) -> Tensor:
        end = self._entries + inputs.shape[1]
        for stored, part in zip(cache, (attention.k_proj, attention.v_proj), strict=True):
            stored[:, :, self._entries : end] = _heads(attention, part(inputs))
        mask = None if inputs.shape[1] == 1 else self._reach.unsqueeze(1)  # alone, a beam descends from every entry
        return _attend(attention, inputs, [stored[:, :, :end] for stored in cache], mask)

    def _project(self, hidden: Tensor) -> Tensor:
        """[B, K, D] -> [B, K, V]."""
        head = self._model.lm_head
        if type(head) is not nn.Linear or head.bias is not None or head._forward_pre_hooks or head._forward_hooks:
            logits: Tensor = head(hidden)
            return logits
        # Memory that is new at every step would cost as much time as the product: some megabytes of page faults.
        rows = hidden.flatten(0, 1)
        if self._logits is None or len(self._logits) < len(rows):
            self._logits = hidden.new_empty(len(rows), head.out_features)
        return torch.mm(rows, head.weight.t(), out=self._logits[: len(rows)]).view(*hidden.shape[:2], -1)

    def keep(self, sentences: Tensor) -> None:
        """Go on with these sentences [n] of the batch alone; their numbers must ascend."""
        for cache in self._caches:
            for number, stored in enumerate(cache):
                kept = stored[: len(sentences)]
                kept[:, :, : self._entries] = stored[sentences, :, : self._entries]
                cache[number] = kept
        self._cross = [[stored[sentences] for stored in cross] for cross in self._cross]
        if self._cross_mask is not None:
            self._cross_mask = self._cross_mask[sentences]
        self._reach = self._reach[sentences]


def _heads(attention: Any, projected: Tensor) -> Tensor:
    """[B, N, H C] -> [B, H, N, C]."""
    return projected.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)


def _attend(attention: Any, inputs: Tensor, stored: list[Tensor], mask: Tensor | None) -> Tensor:
    """[B, K, D], keys and values [B, H, N, C], what is added to the scores [B, 1, K or 1, N] -> [B, K, D]."""
    keys, values = stored
    queries = _heads(attention, attention.q_proj(inputs) * attention.scaling)
    scores = queries @ keys.transpose(2, 3)  # [B, H, K, N]
    if mask is not None:
        scores += mask
    mixed = scores.softmax(dim=-1) @ values  # with so few queries faster than torch's fused attention on a CPU
    result: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return result
