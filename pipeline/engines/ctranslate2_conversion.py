"""A model in memory becomes a CTranslate2 directory, layer by layer: no converter between, which knows fewer shapes.

The directory holds model.bin, config.json and the vocabularies; config.json says beside CTranslate2's own keys the type of
the weights and the tokens that are never produced, so that pipeline.engines.ctranslate2_engine opens it alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ctranslate2.specs import TransformerSpec
from ctranslate2.specs.common_spec import Activation
from ctranslate2.specs.transformer_spec import TransformerDecoderSpec, TransformerEncoderSpec
from torch import Tensor, nn

from pipeline.engines.plain_weights import check_plain_weights
from pipeline.engines.search import EngineRefusal
from pipeline.errors import StudyError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.models.seq2seq import Model

WEIGHTS = ("float32", "int16", "int8")
_PRE_NORM = {"m2m_100": True, "marian": False}
_ACTIVATIONS = {
    "relu": Activation.RELU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELUTanh,
    "silu": Activation.SWISH,
    "swish": Activation.SWISH,
    "tanh": Activation.Tanh,
}


def _copied(tensor: Tensor) -> Tensor:
    """Return fp32 values of their own: CTranslate2 quantizes in place."""
    return tensor.detach().to(device="cpu", dtype=torch.float32, copy=True).contiguous()


def _joined(spec: Any, *modules: nn.Linear) -> None:
    """Fill a linear layer with the rows of several."""
    spec.weight = _copied(torch.cat([module.weight for module in modules]))
    if modules[0].bias is not None:
        spec.bias = _copied(torch.cat([module.bias for module in modules]))


def _norm(spec: Any, module: nn.LayerNorm) -> None:
    spec.gamma, spec.beta = _copied(module.weight), _copied(module.bias)


def _attention(spec: Any, module: Any, norm: nn.LayerNorm) -> None:
    """Fill an attention: queries, keys and values in one product where all three read the same."""
    if len(spec.linear) == 2:
        _joined(spec.linear[0], module.q_proj, module.k_proj, module.v_proj)
    else:
        _joined(spec.linear[0], module.q_proj)
        _joined(spec.linear[1], module.k_proj, module.v_proj)
    _joined(spec.linear[-1], module.out_proj)
    _norm(spec.layer_norm, norm)


def _positions(config: Any, stack: Any) -> Tensor:
    """Return the (positions, d_model) encodings of the first token on, which stands after <pad>'s in M2M100."""
    module = stack.embed_positions
    if config.model_type == "marian":
        return _copied(module.weight)
    first = module.padding_idx + 1
    # Made anew: where <pad> is a high id the module holds fewer, and makes the others when it first needs them.
    table: Tensor = module.get_embedding(first + config.max_position_embeddings, config.d_model, module.padding_idx)
    return _copied(table[first:])


def _stack(spec: Any, config: Any, stack: Any) -> None:
    """Fill what encoder and decoder have in common: embeddings, positions, layers."""
    spec.scale_embeddings = config.d_model**0.5 if config.scale_embedding else 1.0
    spec.position_encodings.encodings = _positions(config, stack)
    embeddings = spec.embeddings[0] if isinstance(spec.embeddings, list) else spec.embeddings
    embeddings.weight = _copied(stack.embed_tokens.weight)
    if _PRE_NORM[config.model_type]:
        _norm(spec.layer_norm, stack.layer_norm)
    for layer, module in zip(spec.layer, stack.layers, strict=True):
        _attention(layer.self_attention, module.self_attn, module.self_attn_layer_norm)
        if hasattr(module, "encoder_attn"):
            _attention(layer.attention, module.encoder_attn, module.encoder_attn_layer_norm)
        _joined(layer.ffn.linear_0, module.fc1)
        _joined(layer.ffn.linear_1, module.fc2)
        _norm(layer.ffn.layer_norm, module.final_layer_norm)


def specification(model: Model, source_tokens: list[str], target_tokens: list[str]) -> TransformerSpec:
    """Return the model in CTranslate2's terms, with copies of its weights in fp32; tokens stand in the order of their ids.

    Any M2M100 or Marian: heads that do not fill the width or differ between encoder and decoder, stacks of unequal
    height, embeddings tied or not, vocabularies shared or not. EngineRefusal on another architecture or activation, on
    token lists of another size than the embeddings, and where the model computes more than its weights say.
    """
    config: Any = model.config
    check_plain_weights(model, "CTranslate2")
    if config.model_type not in _PRE_NORM:
        raise EngineRefusal(
            f"CTranslate2 is given m2m_100 and marian models here, not {config.model_type!r}; use engine 'transformers'"
        )
    if config.activation_function not in _ACTIVATIONS:
        raise EngineRefusal(f"CTranslate2 has no activation {config.activation_function!r}; use engine 'transformers'")
    encoder, decoder = model.model.encoder, model.model.decoder
    for side, tokens, stack in (("source", source_tokens, encoder), ("target", target_tokens, decoder)):
        rows = stack.embed_tokens.weight.shape[0]
        if len(set(tokens)) != rows or len(tokens) != rows:
            raise EngineRefusal(
                f"the {side} tokenizer has {len(set(tokens))} tokens but the model {rows}; "
                "use the tokenizer saved with the model"
            )

    def shape(attention: Any) -> dict[str, Any]:
        return {
            "num_heads": attention.num_heads,
            "head_dim": attention.head_dim,  # without it CTranslate2 takes d_model / heads, and is silently wrong
            "pre_norm": _PRE_NORM[config.model_type],
            "activation": _ACTIVATIONS[config.activation_function],
        }

    spec = TransformerSpec(
        TransformerEncoderSpec(len(encoder.layers), **shape(encoder.layers[0].self_attn)),
        TransformerDecoderSpec(len(decoder.layers), **shape(decoder.layers[0].self_attn)),
    )
    _stack(spec.encoder, config, encoder)
    _stack(spec.decoder, config, decoder)
    _joined(spec.decoder.projection, model.lm_head)
    bias = getattr(model, "final_logits_bias", None)
    if bias is not None and bias.any():
        spec.decoder.projection.bias = _copied(bias[0])
    spec.register_source_vocabulary(source_tokens)
    spec.register_target_vocabulary(target_tokens)
    spec.config.layer_norm_epsilon = encoder.layers[0].final_layer_norm.eps
    return spec


def _tokens(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return [str(tokenizer.convert_ids_to_tokens(number)) for number in range(len(tokenizer))]


def convert(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    directory: str | Path,
    *,
    weights: str,
    target_tokenizer: PreTrainedTokenizerFast | None = None,
) -> None:
    """Write a model as a CTranslate2 directory, which may be there already and empty; the model is left as it is.

    `weights` is float32, int16 or int8, embeddings included. `target_tokenizer` is the decoder's where it has a vocabulary
    of its own. EngineRefusal as in `specification`; StudyError on other weights.
    """
    if weights not in WEIGHTS:
        raise StudyError(f"CTranslate2 has no weights {weights!r} here{nearest(weights, WEIGHTS)}")
    target = target_tokenizer or tokenizer
    source_tokens, target_tokens = _tokens(tokenizer), _tokens(target)
    spec = specification(model, source_tokens, target_tokens)
    start: Any = model.config.decoder_start_token_id
    special = {"bos": target.bos_token, "eos": target.eos_token, "unk": target.unk_token}
    for name, token in (special | {"decoder_start": target_tokens[start]}).items():
        setattr(spec.config, f"{name}_token", token)
    spec.config.add_attribute("weights", weights)
    spec.config.add_attribute("never_produced", [target.bos_token, target.pad_token])
    spec.validate()
    spec.optimize(None if weights == "float32" else weights)
    Path(directory).mkdir(parents=True, exist_ok=True)
    spec.save(str(directory))
