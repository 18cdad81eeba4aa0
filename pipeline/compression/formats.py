"""Model directories: a candidate written to disk, and the one model that is read back from it.

What is evaluated is what `load_model` returns: there is no second way to a compressed model, so that a measured quality
and a measured size always belong to the same bytes. A directory holds one weights file:

    model.safetensors      a plain fp32 model of a standard shape; anybody's `from_pretrained` loads it
    weights.safetensors    everything else of ours: the tensors of pipeline/compression/encoding.py
    quanto.safetensors     optimum-quanto's layers, see pipeline/compression/quanto_files.py

weights.safetensors has under the metadata key `compression` a JSON object: version, the encoding of every matrix, where
inputs are rounded the bits of every linear layer, and CRC-32 sums of the parameters' shapes and of the tensors, which
tell a wrong config.json and damaged data from good ones. `size_bytes` is the size of the whole file: beside the
numbers, 4 bytes a grid, a bit a weight for a mask, 8 bytes a range, and about half a kilobyte of header.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from pipeline.compression.candidate import ActivationRange, Candidate
from pipeline.compression.configuration import again, empty_model, save_configuration
from pipeline.compression.encoding import Array, MatrixEncoding, PartsReader, encode, read_words, write_words
from pipeline.compression.pruning import compressible
from pipeline.compression.quantization import Floats, Mask, QuantizedTensor, dequantize
from pipeline.compression.sizes import Shapes, parameter_shapes
from pipeline.errors import StudyError
from pipeline.files import atomic_path
from pipeline.models.parameters import ALWAYS_ZERO, stored_parameters

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model

VERSION = 2
DENSE, COMPRESSED, QUANTO = "model.safetensors", "weights.safetensors", "quanto.safetensors"


def _shapes_sum(shapes: Shapes) -> str:
    return f"{zlib.crc32(json.dumps(list(shapes.items())).encode()):08x}"


def _data_sum(record: Mapping[str, Any], tensors: Mapping[str, Array]) -> str:
    """Return the sum of the tensors and of what says how to read them."""
    described = [record.get(key) for key in ("version", "matrices", "activations")]
    total = zlib.crc32(json.dumps(described).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tensor.dtype.str} {tensor.shape}".encode(), total)
        total = zlib.crc32(np.ascontiguousarray(tensor).data, total)
    return f"{total:08x}"


def _linear_layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def _weights(candidate: Candidate, directory: Path) -> dict[str, Floats]:
    """Return every parameter as fp32 on the CPU, once it is sure that the file can say all that the model is."""
    model = candidate.model
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)} | ALWAYS_ZERO
    extra = set(model.state_dict()) - known
    if extra:
        raise ValueError(f"the model has buffers that would be lost: {', '.join(sorted(extra))}")
    weights: dict[str, Floats] = {}
    for name, parameter in stored_parameters(model).items():
        weights[name] = parameter.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()
        if not np.isfinite(weights[name]).all():
            raise StudyError(f"{directory}: {name} is not finite, the model has diverged; lower its learning rate")
    matrices = compressible(model)
    for name, kept in candidate.masks.items():
        if name not in matrices or kept.dtype != torch.bool or kept.shape != matrices[name].shape:
            raise ValueError(f"the {kept.dtype} mask of shape {tuple(kept.shape)} fits no weight matrix {name}")
        if np.any(weights[name][~kept.cpu().numpy()]):
            raise ValueError(f"{name} has pruned weights that are not 0")
    for name, quantized in candidate.quantized.items():
        if name not in matrices or not np.array_equal(dequantize(quantized), weights[name]):
            raise ValueError(f"the quantized {name} is not what the model has; it was changed after it was quantized")
        mask = _mask_of(candidate, name)
        pruned = mask is not None or quantized.mask is not None
        if pruned and (mask is None or quantized.mask is None or not np.array_equal(mask, quantized.mask)):
            raise ValueError(f"{name} was quantized with another mask than it has")
    unknown = set(candidate.activations) - set(_linear_layers(model))
    if unknown:
        raise ValueError(f"ranges of inputs of what is no linear layer: {', '.join(sorted(unknown))}")
    return weights


def _ranges(candidate: Candidate) -> tuple[dict[str, Any], Array]:
    """Return the bits of every linear layer's inputs as words, and (2 n,) fp32 minima and scales of those rounded."""
    layers = _linear_layers(candidate.model)
    ranges = [candidate.activations[name] for name in layers if name in candidate.activations]
    words = [str(candidate.activations[name].bits) if name in candidate.activations else "32" for name in layers]
    exact = np.array([(limits.minimum, limits.scale) for limits in ranges], dtype=np.float64).reshape(-1)
    if not np.array_equal(exact, exact.astype(np.float32)):
        raise ValueError("a range's minimum and scale must be fp32 numbers")
    return write_words(words), exact.astype(np.float32)


def _save_packed(candidate: Candidate, path: Path) -> None:
    weights = _weights(candidate, path.parent)
    parts: dict[str, list[Array]] = {}
    words: list[str] = []
    for name, weight in weights.items():
        quantized, mask = candidate.quantized.get(name), _mask_of(candidate, name)
        if weight.ndim == 2:
            words.append(MatrixEncoding.of(quantized, mask).word)
        for kind, part in encode(weight, quantized, mask).items():
            parts.setdefault(kind, []).append(part)
    record: dict[str, Any] = {"version": VERSION, "matrices": write_words(words)}
    if candidate.activations:
        record["activations"], ranges = _ranges(candidate)
        parts["ranges"] = [ranges]
    tensors = {kind: np.concatenate(pieces) for kind, pieces in parts.items()}
    record |= {"shapes": _shapes_sum(parameter_shapes(candidate.model)), "data": _data_sum(record, tensors)}
    with atomic_path(path) as temporary:
        # One metadata key only: the library writes several in an order that changes from run to run.
        save_file(tensors, temporary, metadata={"compression": json.dumps(record, separators=(",", ":"))})


def _mask_of(candidate: Candidate, name: str) -> Mask | None:
    mask = candidate.masks.get(name)
    return None if mask is None else mask.cpu().numpy()


def save_compressed(candidate: Candidate, directory: str | Path) -> Path:
    """Write config.json, generation_config.json and the weights file into `directory`; return the weights file's path.

    The same candidate gives the same bytes, and is left as it is. Codes are written as they are. StudyError on weights
    that are not finite; ValueError where the candidate contradicts itself: weights beside their grid or mask.
    """
    from pipeline.models.architectures import save_plain
    from pipeline.models.pruned import is_heads_pruned

    directory = Path(directory)
    model = candidate.model
    if candidate.quanto_bits is not None:
        from pipeline.compression.quanto_files import save_quanto

        path = directory / QUANTO
        save_configuration(model, directory)
        save_quanto(model, path)
        return path
    plain = not (candidate.masks or candidate.quantized or candidate.activations)
    if plain and not is_heads_pruned(model.config):
        _weights(candidate, directory)
        save_plain(model, directory)
        return directory / DENSE
    path = directory / COMPRESSED
    _save_packed(candidate, path)
    save_configuration(model, directory)
    return path


def _damaged(path: Path, reason: object) -> StudyError:
    text = " ".join(str(reason).split())[:160]
    return StudyError(f"{path}: the compressed weights are damaged ({text}); {again(path.parent)}")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the metadata record and all tensors of a weights file, their sum checked."""
    if not path.is_file():
        raise StudyError(f"{path}: no such file; run the stage that writes it (dvc repro)")
    try:
        with safe_open(path, framework="np") as file:
            record = json.loads((file.metadata() or {})["compression"])
            version = record["version"]
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error if not isinstance(error, KeyError) else f"no {error} in its metadata") from error
    if version != VERSION:
        raise StudyError(f"{path}: written in format version {version}, this program reads {VERSION}; rerun its stage")
    if record.get("data") != _data_sum(record, tensors):
        raise _damaged(path, "its checksum is wrong")
    return record, tensors


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What weights.safetensors holds, as a candidate has it."""

    model: Model
    masks: dict[str, Tensor]
    quantized: dict[str, QuantizedTensor]
    activations: dict[str, ActivationRange]


def read_contents(directory: str | Path) -> Contents:
    """Return the model of weights.safetensors and how its weights are stored; errors as in `load_compressed`."""
    directory = Path(directory)
    path = directory / COMPRESSED
    record, tensors = _read(path)
    model = empty_model(directory)
    shapes = parameter_shapes(model)
    if record.get("shapes") != _shapes_sum(shapes):
        raise StudyError(f"{path}: the weights are of another architecture than config.json; {again(directory)}")
    contents = Contents(model=model, masks={}, quantized={}, activations={})
    layers = _linear_layers(model)
    name = "its metadata"
    try:
        words = read_words(record.get("matrices"), sum(len(shape) == 2 for shape in shapes.values()))
        encodings = [MatrixEncoding.from_word(word) for word in words]
        widths = read_words(record["activations"], len(layers)) if "activations" in record else []
        name = "its tensors"
        reader = PartsReader(tensors, encodings, ranges=len(widths))
        queue = iter(encodings)
        with torch.no_grad():
            for name, parameter in stored_parameters(model).items():
                shape = shapes[name]
                part = reader.matrix(shape, next(queue)) if len(shape) == 2 else reader.vector(shape)
                if part.mask is not None:
                    contents.masks[name] = torch.from_numpy(part.mask)
                if part.quantized is not None:
                    contents.quantized[name] = part.quantized
                parameter.copy_(torch.from_numpy(part.weight()))
        name = "its ranges"
        for layer, bits in zip(layers, widths, strict=False):
            if bits != "32":
                minimum, scale = (float(number) for number in reader.take("ranges", 2))
                contents.activations[layer] = ActivationRange(bits=int(bits), minimum=minimum, scale=scale)
        name = "its tensors"
        reader.finish()
    except ValueError as error:
        raise _damaged(path, f"{name}: {error}") from error
    if contents.activations:
        from pipeline.compression.activation_rounding import round_inputs

        round_inputs(model, contents.activations)
    model.eval()
    return contents


def load_compressed(directory: str | Path) -> Model:
    """Load weights.safetensors as fp32, in eval mode, with eager attention, its ties, and its inputs rounded.

    StudyError on missing, truncated or damaged files, an unknown format version, and weights that do not belong to
    config.json.
    """
    return read_contents(directory).model


def weights_file(directory: str | Path) -> Path:
    """Return the one weights file of a model directory; StudyError when there is none, or more than one."""
    directory = Path(directory)
    found = [name for name in (DENSE, COMPRESSED, QUANTO) if (directory / name).is_file()]
    if not found:
        raise StudyError(f"{directory}: no {DENSE}, {COMPRESSED} or {QUANTO}; run the stage that writes it (dvc repro)")
    if len(found) > 1:
        raise StudyError(f"{directory}: both {' and '.join(found)} are there; {again(directory)}")
    return directory / found[0]


def stored_numbers(directory: str | Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return by name the bits a weight of every quantized matrix, and how many weights of every pruned one are kept."""
    kind = weights_file(directory).name
    if kind == QUANTO:
        from pipeline.compression.quanto_files import stored_bits

        return stored_bits(Path(directory) / QUANTO), {}
    if kind == DENSE:
        return {}, {}
    contents = read_contents(directory)
    bits = {name: quantized.bits for name, quantized in contents.quantized.items()}
    return bits, {name: int(mask.sum()) for name, mask in contents.masks.items()}


def size_bytes(directory: str | Path) -> int:
    """Return the size in bytes of a model directory's weights file, header included."""
    return weights_file(directory).stat().st_size


def load_model(directory: str | Path) -> Model:
    """Load a model directory of any kind, in eval mode; StudyError as the loader of its kind."""
    kind = weights_file(directory).name
    if kind == COMPRESSED:
        return load_compressed(directory)
    if kind == QUANTO:
        from pipeline.compression.quanto_files import load_quanto

        return load_quanto(Path(directory) / QUANTO, empty_model(Path(directory)))
    from pipeline.models.checkpoint import load_dense

    return load_dense(directory)
