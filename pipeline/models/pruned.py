"""Shapes that a transformers configuration cannot say: attention heads that together are narrower than the model.

Such a configuration carries one attribute more, ``head_dim``: q, k and v project from d_model to heads x head_dim, and
the output projection back. transformers saves and reads the attribute but does not heed it; `model_of` does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.models.roberta_prelayernorm.modeling_roberta_prelayernorm import RobertaPreLayerNormAttention

from pipeline.encoder_flops import UNUSED_POSITIONS
from pipeline.errors import StudyError
from pipeline.models.architectures import ATTENTIONS, class_of, complete, is_encoder
from pipeline.models.parameters import stored_parameters
from pipeline.size import SizeSpec

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


_READ_AS = (("encoder_attention_heads", "num_attention_heads"), ("d_model", "hidden_size"))
"""What an encoder-decoder's config.json calls its heads and its width, and what an encoder's calls them."""


def is_heads_pruned(config: Any) -> bool:
    """Tell whether a configuration (an object or config.json's mapping) has heads that do not fill the width."""
    read = config.get if isinstance(config, Mapping) else lambda name: getattr(config, name, None)
    head_dim = read("head_dim")
    heads, width = (read(ours) or read(others) for ours, others in _READ_AS)
    return head_dim is not None and heads * head_dim != width


def shape_of(config: Any) -> SizeSpec:
    """Return a configuration's size; of one whose encoder and decoder differ, the encoder's."""
    if is_encoder(config):
        return SizeSpec(
            architecture="encoder",
            d_model=config.hidden_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            ffn_dim=config.intermediate_size,
            head_dim=getattr(config, "head_dim", None) or 0,
            positions=config.max_position_embeddings - UNUSED_POSITIONS,
            num_labels=config.num_labels if "Classification" in class_of(config).__name__ else 0,
        )
    return SizeSpec(
        d_model=config.d_model,
        num_layers=config.encoder_layers,
        num_heads=config.encoder_attention_heads,
        ffn_dim=config.encoder_ffn_dim,
        head_dim=getattr(config, "head_dim", None) or 0,
    )


def difference_of_sides(config: Any) -> str | None:
    """Return in words how encoder and decoder differ, which no size says: ``6 and 1 layers``; None where they are alike."""
    if is_encoder(config):
        return None
    for part, what in (("layers", "layers"), ("attention_heads", "heads"), ("ffn_dim", "FFN columns")):
        sides = [getattr(config, f"{side}_{part}") for side in ("encoder", "decoder")]
        if sides[0] != sides[1]:
            return f"{sides[0]} and {sides[1]} {what}"
    return None


def set_shape(config: PretrainedConfig, size: SizeSpec) -> None:
    """Write a size into a configuration in place; `head_dim` only where it is needed."""
    if is_encoder(config):
        config.hidden_size, config.num_hidden_layers = size.d_model, size.num_layers
        config.num_attention_heads, config.intermediate_size = size.num_heads, size.ffn_dim
    else:
        config.d_model = size.d_model
        config.encoder_layers = config.decoder_layers = config.num_hidden_layers = size.num_layers
        config.encoder_attention_heads = config.decoder_attention_heads = size.num_heads
        config.encoder_ffn_dim = config.decoder_ffn_dim = size.ffn_dim
    if not size.is_standard:
        config.head_dim = size.head_dim
    elif hasattr(config, "head_dim"):
        del config.head_dim


def model_of(config: PretrainedConfig) -> Model:
    """Return a freshly initialised model of a configuration, standard or with pruned heads; the configuration is copied.

    Attention is eager, as everywhere here, unless the configuration names another kind: one read from a file names none.
    """
    config = copy.deepcopy(config)
    if config._attn_implementation is None:
        config._attn_implementation = "eager"
    kind = class_of(config)
    if not is_heads_pruned(config):
        model: Model = kind(config)
        complete(model)
        return model
    size = shape_of(config)
    set_shape(config, size.changed(num_heads=1, head_dim=size.d_model))  # transformers wants a divisor of the width
    model = kind(config)
    for module in model.modules():
        for linear in _narrowed(module, size):
            model._init_weights(linear)
    set_shape(model.config, size)
    complete(model)
    return model


def _narrowed(module: Any, size: SizeSpec) -> list[nn.Linear]:
    """Give a module that is an attention `size`'s heads, with new projections, in place; return these."""
    width, inner = size.d_model, size.attention_dim
    if isinstance(module, ATTENTIONS):
        module.num_heads, module.head_dim, module.scaling = size.num_heads, size.head_dim, size.head_dim**-0.5
        for part in ("k_proj", "v_proj", "q_proj"):
            setattr(module, part, nn.Linear(width, inner))
        module.out_proj = nn.Linear(inner, width)
        return [module.k_proj, module.v_proj, module.q_proj, module.out_proj]
    if isinstance(module, RobertaPreLayerNormAttention):
        own = module.self
        own.num_attention_heads, own.attention_head_size, own.all_head_size = size.num_heads, size.head_dim, inner
        for part in ("key", "value", "query"):
            setattr(own, part, nn.Linear(width, inner))
        module.output.dense = nn.Linear(inner, width)
        return [own.key, own.value, own.query, module.output.dense]
    return []


@torch.no_grad()
def reshaped(model: Model, size: SizeSpec, weights: Mapping[str, Tensor]) -> Model:
    """Return a new model of another shape that holds `weights` (by parameter name, tied ones once), else like `model`.

    It is what a fresh load of its saved checkpoint gives: what transformers computes from the configuration (positions,
    the embedding's scale, layer numbers) belongs to the new shape. StudyError when a weight is missing, left over, or
    of another shape.
    """
    config = copy.deepcopy(model.config)
    set_shape(config, size)
    with torch.random.fork_rng(devices=[]):  # its first values are overwritten: nobody's random numbers change
        result = model_of(config)
    parameters = stored_parameters(result)
    wanted = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    given = {name: tuple(weight.shape) for name, weight in weights.items()}
    wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if wrong:
        name = wrong[0]
        raise StudyError(
            f"{name} has shape {given.get(name)} where size {size.key} wants {wanted.get(name)}; give the weights of that size"
        )
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
    if model.generation_config is not None:
        result.generation_config = copy.deepcopy(model.generation_config)
    nn.Module.to(result, model.device)  # transformers hides what its own `to` takes
    return result.train(model.training)
