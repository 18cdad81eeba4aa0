"""The shape that a fairseq checkpoint's options say, and the options that no transformers model expresses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.errors import StudyError
from pipeline.models.fairseq_checkpoint import FairseqCheckpoint

_OTHER_ARCHITECTURES = ("align", "from_pretrained", "lm", "moe", "monotonic", "pointer", "ulm", "unidirectional")
"""What follows ``transformer_`` in the names of fairseq's models that are not its translation Transformer."""

_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
    "tanh": "tanh",
    "linear": "linear",
}
"""transformers' name of every activation of fairseq's."""

_MUST_BE_OFF = (
    "adaptive_input",
    "adaptive_softmax_cutoff",
    "base_layers",
    "char_inputs",
    "cross_self_attention",
    "decoder_layers_to_keep",
    "decoder_xformers_att_config",
    "encoder_layers_to_keep",
    "encoder_xformers_att_config",
    "layernorm_embedding",
    "merge_src_tgt_embed",
    "no_cross_attention",
    "no_decoder_final_norm",
    "no_token_positional_embeddings",
    "quant_noise_pq",
    "quant_noise_scalar",
    "scale_attn",
    "scale_fc",
    "scale_heads",
    "scale_resids",
    "tie_adaptive_proj",
    "tie_adaptive_weights",
    "xformers_att_config",
)
"""Options that change what the model computes in a way that neither M2M100 nor Marian knows."""


@dataclass(frozen=True, kw_only=True)
class FairseqShape:
    """What the import needs of a checkpoint's options."""

    d_model: int
    layers: tuple[int, int]
    """Layers of encoder and decoder; the pairs below are in this order too."""
    heads: tuple[int, int]
    ffn_dims: tuple[int, int]
    learned_positions: tuple[bool, bool]
    positions: tuple[int, int]
    pre_norm: bool
    ties: str
    """all: one matrix for both inputs and the output; decoder: its input and output; none."""
    scale_embedding: bool
    activation: str
    dropout: float
    attention_dropout: float
    activation_dropout: float
    layerdrop: tuple[float, float]


def shape_of(checkpoint: FairseqCheckpoint) -> FairseqShape:
    """Return a checkpoint's shape; StudyError names the first option that cannot be expressed."""
    options = checkpoint.options

    def refuse(name: str, reason: str) -> StudyError:
        return StudyError(f"{checkpoint.path}: {name}={options.get(name)!r} {reason}")

    def both(name: str, kind: Callable[[Any], Any], default: Any = None) -> tuple[Any, Any]:
        values = []
        for side in ("encoder", "decoder"):
            value = options.get(f"{side}_{name}", default)
            if value is None:
                raise refuse(f"{side}_{name}", "does not say the model's shape; give the file that fairseq-train wrote")
            values.append(kind(value))
        return values[0], values[1]

    arch = str(options.get("arch"))
    kind = arch.removeprefix("transformer").lstrip("_")
    if not arch.startswith("transformer") or kind.startswith(_OTHER_ARCHITECTURES) or arch.endswith("_align"):
        raise refuse("arch", "is not fairseq's Transformer for translation, the one architecture that is imported")
    for name in _MUST_BE_OFF:
        if options.get(name):
            raise refuse(name, "is an option that neither M2M100 nor Marian of transformers expresses")
    width, decoder_width = both("embed_dim", int)
    for name in ("decoder_input_dim", "decoder_output_dim"):
        given = options.get(name)
        # An unresolved interpolation of fairseq's configuration stands for the decoder's width.
        if given is not None and not str(given).startswith("${") and int(given) != decoder_width:
            raise refuse(name, f"differs from decoder_embed_dim={decoder_width}, which transformers does not express")
    if width != decoder_width:
        raise refuse(
            "decoder_embed_dim", f"differs from encoder_embed_dim={width}, which transformers does not express"
        )
    heads = both("attention_heads", int)
    for side, number in zip(("encoder", "decoder"), heads, strict=True):
        if number < 1 or width % number or width % 2:
            raise refuse(f"{side}_attention_heads", f"must divide an even width, not {width}")
    pre_norm, decoder_pre_norm = both("normalize_before", bool, False)
    if pre_norm != decoder_pre_norm:
        raise refuse(
            "decoder_normalize_before", f"differs from encoder_normalize_before={pre_norm}; both or none is expressed"
        )
    learned = both("learned_pos", bool, False)
    if pre_norm and any(learned):
        side = "encoder" if learned[0] else "decoder"
        raise refuse(f"{side}_learned_pos", "with normalize_before is not expressed: M2M100 computes its positions")
    activation = str(options.get("activation_fn") or "relu")
    if activation not in _ACTIVATIONS:
        raise refuse("activation_fn", f"is not one of {', '.join(_ACTIVATIONS)}")
    ties = "decoder" if options.get("share_decoder_input_output_embed") else "none"
    if options.get("share_all_embeddings"):
        ties = "all"
    older = options.get("max_positions")
    return FairseqShape(
        d_model=width,
        layers=both("layers", int),
        heads=heads,
        ffn_dims=both("ffn_embed_dim", int),
        learned_positions=learned,
        positions=(
            int(options.get("max_source_positions") or older or 1024),
            int(options.get("max_target_positions") or older or 1024),
        ),
        pre_norm=pre_norm,
        ties=ties,
        scale_embedding=not options.get("no_scale_embedding"),
        activation=_ACTIVATIONS[activation],
        dropout=float(options.get("dropout") or 0.0),
        attention_dropout=float(options.get("attention_dropout") or 0.0),
        activation_dropout=float(options.get("activation_dropout") or options.get("relu_dropout") or 0.0),
        layerdrop=both("layerdrop", float, 0.0),
    )
