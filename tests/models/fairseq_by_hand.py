"""fairseq's Transformer written out from its description, and checkpoints in fairseq's layout with random numbers."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

PAD = 1
WIDTH, HEADS, FFN, LAYERS = 16, 2, 24, 2
ACTIVATIONS = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_accurate": lambda x: functional.gelu(x, approximate="tanh"),
}


def options(**changed: Any) -> dict[str, Any]:
    """Return a small model's options; keywords override."""
    result: dict[str, Any] = {"arch": "transformer_iwslt_de_en", "activation_fn": "relu", "dropout": 0.1}
    for side in ("encoder", "decoder"):
        result |= {f"{side}_embed_dim": WIDTH, f"{side}_ffn_embed_dim": FFN, f"{side}_layers": LAYERS}
        result |= {f"{side}_attention_heads": HEADS, f"{side}_normalize_before": True, f"{side}_learned_pos": False}
    limits = {"max_source_positions": 20, "max_target_positions": 20}
    ties = {"share_all_embeddings": False, "share_decoder_input_output_embed": False}
    return result | limits | ties | {"no_scale_embedding": False} | changed


def weights(chosen: dict[str, Any], *, source: int, target: int, seed: int = 0) -> dict[str, Tensor]:
    """Return a state dict of random numbers for these options and vocabularies."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 0.2) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    result: dict[str, Tensor] = {}
    for side, size in (("encoder", source), ("decoder", target)):
        ffn = chosen[f"{side}_ffn_embed_dim"]
        result[f"{side}.version"] = torch.tensor([3.0])
        result[f"{side}.embed_tokens.weight"] = draw(size, WIDTH)
        if chosen[f"{side}_learned_pos"]:
            result[f"{side}.embed_positions.weight"] = draw(20 + PAD + 1, WIDTH)
        else:
            result[f"{side}.embed_positions._float_tensor"] = torch.zeros(1)
        norms = [f"{side}.layer_norm"] if chosen[f"{side}_normalize_before"] else []
        for number in range(chosen[f"{side}_layers"]):
            layer = f"{side}.layers.{number}"
            linear = {f"{layer}.fc1": (ffn, WIDTH), f"{layer}.fc2": (WIDTH, ffn)}
            norms.append(f"{layer}.final_layer_norm")
            for attention in ("self_attn", "encoder_attn") if side == "decoder" else ("self_attn",):
                parts = ("q_proj", "k_proj", "v_proj", "out_proj")
                linear |= {f"{layer}.{attention}.{part}": (WIDTH, WIDTH) for part in parts}
                norms.append(f"{layer}.{attention}_layer_norm")
            for name, shape in linear.items():
                result |= {f"{name}.weight": draw(*shape), f"{name}.bias": draw(shape[0])}
        for name in norms:
            result |= {f"{name}.weight": 1 + draw(WIDTH), f"{name}.bias": draw(WIDTH)}
    if chosen["share_all_embeddings"]:
        result["decoder.embed_tokens.weight"] = result["encoder.embed_tokens.weight"]
    tied = chosen["share_all_embeddings"] or chosen["share_decoder_input_output_embed"]
    own = result["decoder.embed_tokens.weight"] if tied else draw(target, WIDTH)
    result["decoder.output_projection.weight"] = own
    return result


def save(path: Path, chosen: dict[str, Any], state: dict[str, Tensor], *, old: bool = False) -> Path:
    """Write a checkpoint as fairseq does: with `args` until 2020, with `cfg` since."""
    namespace = argparse.Namespace(**chosen, seed=7, source_lang="xx", target_lang="yy")
    content: dict[str, Any] = {"args": namespace, "model": state, "optimizer_history": [{"num_updates": 30}]}
    if not old:
        task = {"_name": "translation", "source_lang": "xx", "target_lang": "yy"}
        content |= {"args": None, "cfg": {"common": {"seed": 7}, "model": namespace, "task": task}}
    torch.save(content, path)
    return path


def write_dictionary(path: Path, size: int, prefix: str) -> Path:
    """Write a dict.txt that with the four special symbols has `size`."""
    path.write_text("".join(f"{prefix}{number} {size - number}\n" for number in range(size - 4)), encoding="utf-8")
    return path


def _positions(ids: Tensor, state: dict[str, Tensor], side: str) -> Tensor:
    numbers = torch.cumsum(ids.ne(PAD).long(), dim=1) * ids.ne(PAD) + PAD
    learned = state.get(f"{side}.embed_positions.weight")
    if learned is not None:
        return learned[numbers]
    half = WIDTH // 2
    rates = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
    angles = numbers.unsqueeze(2) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=2) * ids.ne(PAD).unsqueeze(2)


def logits(chosen: dict[str, Any], state: dict[str, Tensor], source: Tensor, before: Tensor) -> Tensor:
    """Return the decoder's logits (B, T, V) for sources (B, S) and what was written before each position (B, T)."""

    def norm(name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def attend(name: str, x: Tensor, memory: Tensor, hidden: Tensor) -> Tensor:
        heads = chosen[f"{name.split('.')[0]}_attention_heads"]
        split = [
            linear(f"{name}.{part}", y).unflatten(2, (heads, WIDTH // heads)).transpose(1, 2)
            for part, y in (("q_proj", x), ("k_proj", memory), ("v_proj", memory))
        ]
        scores = split[0] @ split[1].transpose(2, 3) / math.sqrt(WIDTH // heads)
        shares = scores.masked_fill(hidden, -math.inf).softmax(dim=3)
        return linear(f"{name}.out_proj", (shares @ split[2]).transpose(1, 2).flatten(2))

    def run(side: str, ids: Tensor, memory: Tensor | None, padding: Tensor) -> Tensor:
        pre = chosen[f"{side}_normalize_before"]
        scale = 1.0 if chosen["no_scale_embedding"] else math.sqrt(WIDTH)
        x = state[f"{side}.embed_tokens.weight"][ids] * scale + _positions(ids, state, side)
        hidden = padding.view(len(ids), 1, 1, -1)
        own = hidden if memory is None else torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool()[None, None]

        act = ACTIVATIONS[chosen["activation_fn"]]

        def sublayer(name: str, x: Tensor, what: Any) -> Tensor:
            return x + what(norm(name, x)) if pre else norm(name, x + what(x))

        for number in range(chosen[f"{side}_layers"]):
            layer = f"{side}.layers.{number}"
            x = sublayer(f"{layer}.self_attn_layer_norm", x, lambda y, n=layer: attend(f"{n}.self_attn", y, y, own))
            if memory is not None:
                cross = f"{layer}.encoder_attn"
                x = sublayer(f"{cross}_layer_norm", x, lambda y, n=cross: attend(n, y, memory, hidden))
            x = sublayer(
                f"{layer}.final_layer_norm", x, lambda y, n=layer: linear(f"{n}.fc2", act(linear(f"{n}.fc1", y)))
            )
        return norm(f"{side}.layer_norm", x) if pre else x

    padding = source.eq(PAD)
    states = run("decoder", before, run("encoder", source, None, padding), padding)
    return functional.linear(states, state["decoder.output_projection.weight"])
