"""fairseq's tensors under the names and in the shapes that M2M100 and Marian of transformers give them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import StudyError
from pipeline.models.architectures import fairseq_sinusoids
from pipeline.models.fairseq_shape import FairseqShape
from pipeline.models.seq2seq import PAD

_SIDES = ("encoder", "decoder")
_OLD_NORMS = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}
"""What fairseq called layer_norms.0, .1, .2 of a layer until 2018."""

_LEFTOVER = re.compile(r"(encoder|decoder)\.(version|embed_positions\.(_float_tensor|weights))")
"""Tensors that hold no parameter."""

_MARGIN = 200.0
"""How far below every other logit that of a word that is missing lies: e ** -104 is 0 in fp32 already."""


_STEP = 0.25
"""How much of its scale is added to the last norm's shift: enough for a bias, too little to cost digits of the logits."""


def upgraded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict under today's names of fairseq's, without what is no parameter, as fairseq itself upgrades it."""
    result: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if _LEFTOVER.fullmatch(name):
            continue
        joined = re.fullmatch(r"(.*_attn\.)in_proj_(weight|bias)", name)
        norm = re.fullmatch(r"((encoder|decoder)\.layers\.\d+\.)layer_norms\.(\d)\.(weight|bias)", name)
        if joined:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                result[f"{joined[1]}{part}_proj.{joined[2]}"] = rows
        elif norm:
            result[f"{norm[1]}{_OLD_NORMS[norm[2]][int(norm[3])]}.{norm[4]}"] = tensor
        elif name == "decoder.embed_out":
            result["decoder.output_projection.weight"] = tensor
        else:
            result[name] = tensor
    return result


def _expected(shape: FairseqShape, vocabularies: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Return every tensor of a checkpoint of this shape, by name, except the output projection."""
    width = shape.d_model
    expected: dict[str, tuple[int, ...]] = {}

    def norm(name: str) -> None:
        expected.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    def linear(name: str, columns: int, rows: int) -> None:
        expected.update({f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)})

    for index, side in enumerate(_SIDES):
        expected[f"{side}.embed_tokens.weight"] = (vocabularies[index], width)
        if shape.learned_positions[index]:
            expected[f"{side}.embed_positions.weight"] = (shape.positions[index] + PAD + 1, width)
        for number in range(shape.layers[index]):
            layer = f"{side}.layers.{number}"
            for attention in ("self_attn", "encoder_attn")[: index + 1]:
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    linear(f"{layer}.{attention}.{part}", width, width)
                norm(f"{layer}.{attention}_layer_norm")
            linear(f"{layer}.fc1", width, shape.ffn_dims[index])
            linear(f"{layer}.fc2", shape.ffn_dims[index], width)
            norm(f"{layer}.final_layer_norm")
        if shape.pre_norm:
            norm(f"{side}.layer_norm")
    return expected


def checked(
    weights: Mapping[str, Tensor], shape: FairseqShape, vocabularies: tuple[int, int], path: Path
) -> dict[str, Tensor]:
    """Return today's names with the output projection among them, once every tensor is there, fits, and is finite.

    `vocabularies` are the dictionaries' sizes. StudyError names the first tensor that is missing, of another shape, left
    over, not finite, or different from the one that the options say it is tied to.
    """
    found = upgraded(weights)
    output = "decoder.output_projection.weight"
    group = ["encoder.embed_tokens.weight"] if shape.ties == "all" else []
    if shape.ties != "none":
        group += ["decoder.embed_tokens.weight", output]
    if output not in found and group:
        found[output] = found.get("decoder.embed_tokens.weight", torch.empty(0))
    expected = _expected(shape, vocabularies) | {output: (vocabularies[1], shape.d_model)}
    for side, size in zip(_SIDES, vocabularies, strict=True):
        rows = len(found.get(f"{side}.embed_tokens.weight", ()))
        if rows and rows != size:
            raise StudyError(
                f"{path}: the {side} has {rows} embeddings but its dictionary {size} symbols; give the dict.txt files of "
                "this checkpoint's data folder, source first"
            )
    for name, wanted in expected.items():
        if name not in found:
            raise StudyError(
                f"{path}: there is no tensor {name}, which a model of its options has; give another checkpoint"
            )
        if tuple(found[name].shape) != wanted:
            raise StudyError(f"{path}: {name} has shape {tuple(found[name].shape)} where its options say {wanted}")
        if not torch.isfinite(found[name]).all():
            raise StudyError(f"{path}: {name} is not finite; give a checkpoint from before the training diverged")
    left = sorted(set(found) - set(expected))
    if left:
        raise StudyError(f"{path}: {left[0]} belongs to no part that M2M100 or Marian of transformers has")
    for name in group[1:]:
        if not torch.equal(found[name], found[group[0]]):
            raise StudyError(f"{path}: {name} differs from {group[0]}, to which its options tie it")
    return {name: found[name] for name in expected}


def unreachable_row(scale: Tensor, shift: Tensor, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a row for words that are never chosen, and the shift and output projection that go with it.

    `scale` and `shift` (d,) are the weight and bias of the layer norm before the projection `output` (n, d). The norm gives
    ``scale * x + shift`` with an x that sums to 0, so that ``c / scale`` times it is ``c * sum(shift / scale)`` whatever x
    is: every row can have a bias of its own. First the sum is moved away from 0: the shift grows by a part of the scale, and
    every row loses a multiple of ``1 / scale`` that leaves its logits as they are. Then c is chosen so that the new row's logit
    lies far below the lowest that the others can have: its probability is 0 in fp32, and also once weights or states are
    rounded to 8 bits.
    """
    scale, shift, output = scale.double(), shift.double().clone(), output.double().clone()
    width = len(scale)
    lowest = (output * scale).norm(dim=1) * math.sqrt(width) + (output @ shift).abs()  # (n,) no logit is below -lowest
    dead = torch.nonzero(scale == 0)
    if len(dead):  # such a column of the states is its shift, always
        column = int(dead[0])
        output[:, column] *= shift[column]
        shift[column] = constant = 1.0
        direction = torch.zeros_like(scale)
        direction[column] = 1.0
    else:
        direction = 1 / scale
        step = math.copysign(_STEP, float(shift @ direction))
        constant = float(shift @ direction) + step * width
        output -= torch.outer(step * (output @ scale) / constant, direction)
        shift += step * scale
    row = direction * (-(float(lowest.min()) + _MARGIN) / constant)
    return row.float(), shift.float(), output.float()


def sinusoids(positions: int, width: int) -> Tensor:
    """Return fairseq's sinusoidal positions (positions, width), those of the first token first."""
    return fairseq_sinusoids(torch.Size((positions, width))).contiguous()


def _grown(rows: Tensor, size: int, filling: Tensor | None = None) -> Tensor:
    """Return a matrix of `size` rows: those given, then `filling` over and over, or zeros."""
    missing = size - len(rows)
    extra = torch.zeros(missing, rows.shape[1]) if filling is None else filling.expand(missing, -1)
    return torch.cat([rows, extra])


def output_is_tied(shape: FairseqShape, vocabularies: tuple[int, int]) -> bool:
    """Tell whether the imported output projection is the decoder's embedding; one that lacks words gets rows of its own."""
    return shape.ties != "none" and vocabularies[0] <= vocabularies[1]


def mapped(weights: Mapping[str, Tensor], shape: FairseqShape, positions: int) -> dict[str, Tensor]:
    """Return what model.safetensors of the transformers model holds; tied matrices once, under the name it keeps.

    `weights` are `checked`; `positions` is the model's max_position_embeddings. Vocabularies of different sizes become one
    of the larger size: an embedding's missing rows are 0, an output projection's are `unreachable_row`.
    """
    weights = dict(weights)
    output = weights["decoder.output_projection.weight"]
    source, target = weights["encoder.embed_tokens.weight"], weights["decoder.embed_tokens.weight"]
    size = max(len(source), len(target))
    if len(output) < size:
        last = "decoder.layer_norm" if shape.pre_norm else f"decoder.layers.{shape.layers[1] - 1}.final_layer_norm"
        row, shift, output = unreachable_row(weights[f"{last}.weight"], weights[f"{last}.bias"], output)
        weights[f"{last}.bias"], output = shift, _grown(output, size, row)
    result = {
        f"model.{name}": tensor
        for name, tensor in weights.items()
        if "embed_tokens" not in name and "embed_positions" not in name and "output_projection" not in name
    }
    if shape.ties == "all":
        result["model.shared.weight"] = source
    else:
        result["model.encoder.embed_tokens.weight"] = _grown(source, size)
        result["model.decoder.embed_tokens.weight"] = _grown(target, size)
        if shape.pre_norm:
            # M2M100 has a third matrix that is used only where it is tied: the embeddings that it answers when asked.
            result["model.shared.weight"] = result["model.encoder.embed_tokens.weight"]
        if shape.pre_norm or not output_is_tied(shape, (len(source), len(target))):
            result["lm_head.weight"] = output
    if not shape.pre_norm:
        for side in _SIDES:
            learned = weights.get(f"{side}.embed_positions.weight")
            table = sinusoids(positions, shape.d_model) if learned is None else learned[PAD + 1 :][:positions]
            result[f"model.{side}.embed_positions.weight"] = table
        result["final_logits_bias"] = torch.zeros(1, size)
    return {name: tensor.clone().contiguous() for name, tensor in result.items()}
