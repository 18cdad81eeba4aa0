"""A size becomes a pre-norm encoder with a masked-LM head or a classification head (transformers' RoBERTa-PreLayerNorm classes).

The masked LM's output bias stays 0 and is not learnt: the loss over the vocabulary is made in chunks that know no bias,
and the head's layer norm can shift logits by what its own bias and a word's embedding have in common.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.models.m2m_100.modeling_m2m_100 import M2M100SinusoidalPositionalEmbedding
from transformers.models.roberta_prelayernorm import RobertaPreLayerNormConfig

from pipeline.encoder_flops import UNUSED_POSITIONS
from pipeline.models.pruned import model_of
from pipeline.models.seq2seq import BOS, EOS, PAD
from pipeline.size import SizeSpec

if TYPE_CHECKING:
    from transformers.models.roberta_prelayernorm import RobertaPreLayerNormForSequenceClassification

    Encoder = Any


def config_of(size: SizeSpec, *, vocab_size: int, dropout: float = 0.0) -> RobertaPreLayerNormConfig:
    """Return the transformers configuration of an encoder; every kind of dropout is explicit, because the defaults are not 0.

    FFNs have ReLU, as the study's translation models: training's fused sublayers know no other. `head_dim` is in it only
    where heads were pruned: `pipeline.models.pruned.model_of` heeds it.
    """
    head = {"num_labels": size.num_labels} if size.num_labels else {}
    return RobertaPreLayerNormConfig(
        vocab_size=vocab_size,
        hidden_size=size.d_model,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        intermediate_size=size.ffn_dim,
        hidden_act="relu",
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=size.positions + UNUSED_POSITIONS,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
        architectures=[f"RobertaPreLayerNormFor{'SequenceClassification' if size.num_labels else 'MaskedLM'}"],
        attn_implementation="eager",
        **head,
        **({} if size.is_standard else {"head_dim": size.head_dim}),
    )


def build(size: SizeSpec, *, vocab_size: int, dropout: float = 0.0, seed: int | None = None) -> Encoder:
    """Return a freshly initialised fp32 encoder of this size.

    Projections are Xavier-uniform, embeddings normal with variance 1 / d_model, classes' rows with a deviation of
    1 / d_model: at first all classes are about equally likely. `seed` seeds torch's global generator first.

    Positions are learnt, but begin as sinusoids (Vaswani et al. 2017, section 3.5), as large beside the words as in the
    study's translation models: among random rows attention has to find every pair of neighbours by itself.
    """
    if seed is not None:
        torch.manual_seed(seed)
    model: Encoder = model_of(config_of(size, vocab_size=vocab_size, dropout=dropout))
    embeddings = model.roberta_prelayernorm.embeddings
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name not in ("lm_head.decoder", "classifier.out_proj"):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for table in (embeddings.word_embeddings, embeddings.token_type_embeddings):
        nn.init.normal_(table.weight, std=1 / math.sqrt(size.d_model))
    with torch.no_grad():
        embeddings.word_embeddings.weight[PAD].zero_()
        positions = embeddings.position_embeddings.weight
        rows, width = positions.shape
        positions.copy_(M2M100SinusoidalPositionalEmbedding.get_embedding(rows, width, PAD))
        positions.div_(math.sqrt(size.d_model))
    if size.num_labels:
        nn.init.normal_(model.classifier.out_proj.weight, std=1 / size.d_model)
    return model


@torch.no_grad()
def classifier_of(
    pretrained: Encoder, size: SizeSpec, *, vocab_size: int, dropout: float, seed: int
) -> RobertaPreLayerNormForSequenceClassification:
    """Return a classifier of `size` on a pretrained masked LM's encoder, whose head is left behind; the new head is drawn from `seed`."""
    model: RobertaPreLayerNormForSequenceClassification = build(size, vocab_size=vocab_size, dropout=dropout, seed=seed)
    model.roberta_prelayernorm.load_state_dict(pretrained.roberta_prelayernorm.state_dict())
    return model


def set_dropout(model: Encoder, dropout: float) -> None:
    """Set the dropout of embeddings, residuals and head in place; attention has none."""
    model.config.hidden_dropout_prob = dropout
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and not name.endswith("attention.self.dropout"):
            module.p = dropout
