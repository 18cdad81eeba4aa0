"""A size becomes a pre-norm encoder-decoder with tied embeddings (transformers' M2M100 classes)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.models.m2m_100 import M2M100Config

from pipeline.models.pruned import model_of
from pipeline.size import SizeSpec

if TYPE_CHECKING:
    from transformers.models.m2m_100 import M2M100ForConditionalGeneration

    Model = M2M100ForConditionalGeneration

BOS, PAD, EOS, UNK = 0, 1, 2, 3
"""Special token ids: <s> starts the decoder. <pad> must be 1, or the CTranslate2 converter shifts the positions."""


def config_of(size: SizeSpec, *, vocab_size: int, max_positions: int = 256, dropout: float = 0.0) -> M2M100Config:
    """Return the transformers configuration of a size; every kind of dropout is explicit, because the defaults are not 0.

    `head_dim` is in it only where heads were pruned: `pipeline.models.pruned.model_of` heeds it.
    """
    return M2M100Config(
        vocab_size=vocab_size,
        d_model=size.d_model,
        encoder_layers=size.num_layers,
        decoder_layers=size.num_layers,
        encoder_attention_heads=size.num_heads,
        decoder_attention_heads=size.num_heads,
        encoder_ffn_dim=size.ffn_dim,
        decoder_ffn_dim=size.ffn_dim,
        max_position_embeddings=max_positions,
        dropout=dropout,
        attention_dropout=0.0,
        activation_dropout=0.0,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        scale_embedding=True,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        attn_implementation="eager",
        **({} if size.is_standard else {"head_dim": size.head_dim}),
    )


def build(size: SizeSpec, *, vocab_size: int, dropout: float = 0.0, seed: int | None = None) -> Model:
    """Return a freshly initialised fp32 model of this size.

    Projections are Xavier-uniform and embeddings normal with variance 1 / d_model: transformers' fixed deviation of 0.02
    starves narrow models, whose positions would drown the scaled embeddings. `seed` seeds torch's global generator first.
    """
    if seed is not None:
        torch.manual_seed(seed)
    model = model_of(config_of(size, vocab_size=vocab_size, dropout=dropout))
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not model.lm_head:
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.model.shared.weight, std=1 / math.sqrt(size.d_model))
    with torch.no_grad():
        model.model.shared.weight[PAD].zero_()
    if model.generation_config is not None:
        model.generation_config.max_length = 128
    return model


def set_dropout(model: Model, dropout: float) -> None:
    """Set the residual and embedding dropout of every layer in place."""
    model.config.dropout = dropout
    modules: Iterable[Any] = model.modules()
    for module in modules:
        if isinstance(getattr(module, "dropout", None), float) and not hasattr(module, "k_proj"):
            module.dropout = dropout
