"""optimum-quanto's quantized layers: made, written to quanto.safetensors, read back exactly.

quanto.safetensors is the state of the model as optimum-quanto gives it, tied parameters once and without the scales of
activations, which are all 1. quanto.json beside it holds optimum-quanto's map (which layer has which weights) and a
CRC-32 sum of itself and of the weights file.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.errors import StudyError
from pipeline.files import atomic_path, read_json, write_json
from pipeline.models.parameters import ALWAYS_ZERO, stored_parameters
from pipeline.models.parts import parts_of

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model

MAP = "quanto.json"

_UNIT_SCALES = (".input_scale", ".output_scale")


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Return the uint8 values of which optimum-quanto packs 8 / `bits` into a byte, the first rows lowest."""
    return torch.cat([(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)])


def _quanto() -> Any:
    """Return optimum.quanto, which from then on unpacks with torch alone.

    Its own unpacking is an extension that it compiles into the installed package at first use: that needs g++ (nvcc on
    a GPU), and two processes at once disturb each other.
    """
    import optimum.quanto
    from optimum.quanto.library.extensions import get_extension, is_extension_available

    for name in filter(is_extension_available, ("quanto_cpp", "quanto_cuda")):
        get_extension(name)._lib = SimpleNamespace(unpack=unpack)
    return optimum.quanto


def linear_layers(model: Model) -> list[str]:
    """Return the names of the linear layers, without the projection on the vocabulary.

    That is as a rule the embedding, which optimum-quanto would untie.
    """
    output = parts_of(model).output
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != output]


def quantize_layers(model: Model, layers: Iterable[str], bits: int) -> None:
    """Replace these linear layers by optimum-quanto's of 8, 4 or 2 bits a weight, in place; their weights still float."""
    quanto = _quanto()
    quanto.quantize(model, weights={8: quanto.qint8, 4: quanto.qint4, 2: quanto.qint2}[bits], include=list(layers))


def freeze(model: Model) -> None:
    """Round the weights of all of optimum-quanto's layers."""
    _quanto().freeze(model)


def dense_weights(model: Model) -> dict[str, Tensor]:
    """Return the fp32 values of every parameter by name, optimum-quanto's dequantized; on the CPU."""
    return {
        name: (parameter.dequantize() if hasattr(parameter, "qtype") else parameter).detach().cpu()
        for name, parameter in model.named_parameters()
    }


def plain_model(model: Model) -> Model:
    """Return a model of ordinary layers with the weights of optimum-quanto's, for engines that know no others."""
    from pipeline.models.pruned import model_of

    with torch.random.fork_rng(devices=[]):
        plain = model_of(model.config)
    weights = dense_weights(model)
    with torch.no_grad():
        for name, parameter in stored_parameters(plain).items():
            parameter.copy_(weights[name])
    plain.generation_config = model.generation_config
    return plain.eval()


def group_sizes(model: Model) -> set[int | None]:
    """Return how many columns share a grid in the layers of optimum-quanto; None: a whole row."""
    quanto = _quanto()
    return {module.weight_group_size for module in model.modules() if isinstance(module, quanto.nn.QModuleMixin)}


def _state(model: Model) -> dict[str, Tensor]:
    """Return the tensors that make the model, tied ones once."""
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} | ALWAYS_ZERO
    tied -= set(stored_parameters(model))
    state = model.state_dict()
    return {
        name: state[name].contiguous() for name in sorted(state) if name not in tied and not name.endswith(_UNIT_SCALES)
    }


def save_quanto(model: Model, path: Path) -> None:
    """Write a model of frozen layers to `path`, and its map beside it; the same model gives the same bytes."""
    with atomic_path(path) as temporary:
        save_file(_state(model), temporary, metadata={"format": "pt"})
    layers = _quanto().quantization_map(model)
    write_json(path.parent / MAP, {"layers": layers, "sum": _sum(layers, path)})


def _sum(layers: Any, path: Path) -> int:
    return zlib.crc32(path.read_bytes(), zlib.crc32(json.dumps(layers, sort_keys=True).encode()))


def _read_map(path: Path) -> dict[str, Any]:
    data = read_json(path.parent / MAP)
    if not (
        isinstance(data, dict)
        and isinstance(data.get("layers"), dict)
        and path.is_file()
        and data.get("sum") == _sum(data["layers"], path)
    ):
        raise StudyError(
            f"{path}: the weights of optimum-quanto or their {MAP} are damaged; delete {path.parent} and rerun its stage"
        )
    return data


def stored_bits(path: Path) -> dict[str, int]:
    """Return {matrix: bits a weight} of a file's quantized matrices."""
    return {f"{layer}.weight": int(kind["weights"][-1]) for layer, kind in _read_map(path)["layers"].items()}


def load_quanto(path: Path, model: Model) -> Model:
    """Fill an empty model from quanto.safetensors, in eval mode; StudyError when the file is damaged or does not fit."""
    by_layer = _read_map(path)["layers"]
    try:
        for bits in (8, 4, 2):
            layers = [layer for layer, kind in by_layer.items() if kind["weights"] == f"qint{bits}"]
            if layers:
                quantize_layers(model, layers, bits)
        freeze(model)
        expected, state = _state(model), load_file(path)
        if {name: tensor.shape for name, tensor in expected.items()} != {name: t.shape for name, t in state.items()}:
            raise ValueError("its tensors are not those of config.json")
        model.load_state_dict(state, strict=False)
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise StudyError(
            f"{path}: the weights do not fit ({reason}); delete {path.parent} and rerun its stage"
        ) from error
    return model.eval()
