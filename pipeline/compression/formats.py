"""Compressed model directories: packed weights written to disk, and the one model that is read back from them.

What is evaluated is what `load_compressed` returns: there is no second way to a compressed model, so that a measured
quality and a measured size always belong to the same bytes.

`weights.safetensors` holds one tensor a kind, each the parts of all parameters one after another, in the order of the
model's named_parameters (tied parameters once):

    values            fp32: the vectors, and the kept weights of matrices that are not quantized, in C order
    codes             uint8: a matrix's kept weights in C order, packed in k bits, up to a whole byte
    scale, minimum    fp16, one a row of every matrix, beside codes
    mask              uint8: a matrix's bits in C order, 1 where kept, up to a whole byte; absent if nothing is pruned

and under the metadata key `compression` a JSON object: version, bits (null: fp32), and CRC-32 sums of the parameters'
shapes and of the tensors, which tell a wrong config.json and damaged data from good ones. Where a part ends follows
from config.json's shapes, the bits, and the number of ones in its mask: an entry a part would take tens of kilobytes,
a tenth of the smallest models. `size_bytes` is the size of the whole file: beside the numbers, 4 bytes a row, a bit a
weight for a mask, and about half a kilobyte of header whatever the model.
"""

from __future__ import annotations

import copy
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from pipeline.compression.packing import pack_bits, pack_mask, packed_bytes, unpack_bits, unpack_mask
from pipeline.compression.pruning import compressible
from pipeline.compression.quantization import MAX_BITS, MIN_BITS, QuantizedTensor, check_bits, dequantize, quantize_rows
from pipeline.compression.sizes import Shapes, parameter_shapes
from pipeline.errors import StudyError
from pipeline.files import atomic_path, read_json

if TYPE_CHECKING:
    from transformers.models.m2m_100 import M2M100ForConditionalGeneration

VERSION = 1
DENSE, COMPRESSED = "model.safetensors", "weights.safetensors"

KINDS = {"codes": np.uint8, "scale": np.float16, "minimum": np.float16, "mask": np.uint8, "values": np.float32}

Array = npt.NDArray[Any]


def _shapes_sum(shapes: Shapes) -> str:
    return f"{zlib.crc32(json.dumps(list(shapes.items())).encode()):08x}"


def _tensors_sum(tensors: Mapping[str, Array]) -> str:
    total = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tensor.dtype.str} {tensor.shape}".encode(), total)
        total = zlib.crc32(np.ascontiguousarray(tensor).data, total)
    return f"{total:08x}"


def _encode(weight: npt.NDArray[np.float32], bits: int | None, mask: npt.NDArray[np.bool_] | None) -> dict[str, Array]:
    """Return the flat parts of a matrix by kind."""
    parts: dict[str, Array] = {} if mask is None else {"mask": pack_mask(mask)}
    kept = np.ones_like(weight, dtype=np.bool_) if mask is None else mask
    if bits is None:
        return parts | {"values": weight[kept]}
    quantized = quantize_rows(weight, bits, kept)
    codes = pack_bits(quantized.codes[kept], bits)
    return parts | {"codes": codes, "scale": quantized.scale, "minimum": quantized.minimum}


class _Parts:
    """The tensors of a file, taken piece by piece in the order in which they were put together."""

    def __init__(self, tensors: Mapping[str, Array], bits: int | None) -> None:
        """ValueError unless the tensors are exactly the kinds that these bits need, of their types."""
        needed = {"values", "mask"} if bits is None else {"values", "codes", "scale", "minimum"}
        if not needed <= set(tensors) <= needed | {"mask"}:
            raise ValueError(f"it consists of {', '.join(sorted(tensors))}")
        for kind, tensor in tensors.items():
            if tensor.dtype != KINDS[kind] or tensor.ndim != 1:
                raise ValueError(f"{kind} is {tensor.dtype} of shape {tensor.shape}")
        self._rest = dict(tensors)
        self._bits = bits

    def _take(self, kind: str, count: int) -> Array:
        part, self._rest[kind] = np.split(self._rest[kind], [count])
        if part.size != count:
            raise ValueError(f"{part.size} {kind} are left, not {count}")
        return part

    def decode(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Return the next parameter, float32 of this shape; ValueError when what is left does not make one."""
        count = math.prod(shape)
        if len(shape) != 2:
            return self._take("values", count).reshape(shape)
        mask = np.ones(shape, dtype=np.bool_)
        if "mask" in self._rest:
            mask = unpack_mask(self._take("mask", packed_bytes(count, 1)), shape)
            count = int(mask.sum())
        if self._bits is None:
            weight = np.zeros(shape, dtype=np.float32)
            weight[mask] = self._take("values", count)
            return weight
        codes = np.zeros(shape, dtype=np.uint8)
        codes[mask] = unpack_bits(self._take("codes", packed_bytes(count, self._bits)), self._bits, count)
        scale, minimum = (self._take(kind, shape[0]) for kind in ("scale", "minimum"))
        return dequantize(QuantizedTensor(bits=self._bits, codes=codes, scale=scale, minimum=minimum, mask=mask))

    def finish(self) -> None:
        """Raise ValueError if anything is left."""
        for kind, rest in self._rest.items():
            if rest.size:
                raise ValueError(f"{rest.size} {kind} are left over")


def save_compressed(
    model: M2M100ForConditionalGeneration,
    directory: str | Path,
    *,
    bits: int | None,
    masks: Mapping[str, Tensor] | None,
) -> Path:
    """Write config.json, generation_config.json and weights.safetensors into `directory`; return the last one's path.

    `bits` 2..8 quantizes every matrix, None keeps fp32; `masks` (one for every name of `compressible`, True
    where kept) prunes. The model itself is left as it is. The same model gives the same bytes. StudyError on other bits
    and on weights that are not finite.
    """
    if bits is not None:
        check_bits(bits)
    if bits is None and not masks:
        raise ValueError("neither bits nor masks: pipeline.models.checkpoint.save_dense saves an uncompressed model")
    matrices = compressible(model)
    for name, mask in (masks or {}).items():
        if name not in matrices or mask.dtype != torch.bool or mask.shape != matrices[name].shape:
            raise ValueError(f"the {mask.dtype} mask of shape {tuple(mask.shape)} fits no weight matrix {name}")
    if masks is not None and len(masks) < len(matrices):
        raise ValueError(f"these matrices have no mask: {', '.join(sorted(set(matrices) - set(masks)))}")
    extra = set(model.state_dict()) - {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if extra:
        raise ValueError(f"the model has buffers that would be lost: {', '.join(sorted(extra))}")

    parts: dict[str, list[Array]] = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()
        if not np.isfinite(weight).all():
            raise StudyError(f"{directory}: {name} is not finite, the model has diverged; lower its learning rate")
        encoded = {"values": weight.reshape(-1)}
        if name in matrices:
            encoded = _encode(weight, bits, None if masks is None else masks[name].cpu().numpy())
        for kind, part in encoded.items():
            parts.setdefault(kind, []).append(part)
    tensors = {kind: np.concatenate(pieces) for kind, pieces in parts.items()}
    shapes, data = _shapes_sum(parameter_shapes(model)), _tensors_sum(tensors)
    record = json.dumps({"version": VERSION, "bits": bits, "shapes": shapes, "data": data}, separators=(",", ":"))

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(directory)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(directory)
    path = directory / COMPRESSED
    with atomic_path(path) as temporary:
        # One metadata key only: the library writes several in an order that changes from run to run.
        save_file(tensors, temporary, metadata={"compression": record})
    return path


def _again(directory: Path) -> str:
    return f"delete {directory} and rerun its stage"


def _damaged(path: Path, reason: object) -> StudyError:
    text = " ".join(str(reason).split())[:160]
    return StudyError(f"{path}: the compressed weights are damaged ({text}); {_again(path.parent)}")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the checked metadata record and all tensors of a weights file."""
    try:
        with safe_open(path, framework="np") as file:
            record = json.loads((file.metadata() or {})["compression"])
            version, bits = record["version"], record["bits"]
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error if not isinstance(error, KeyError) else f"no {error} in its metadata") from error
    if version != VERSION:
        raise StudyError(f"{path}: written in format version {version}, this program reads {VERSION}; rerun its stage")
    if bits is not None and (type(bits) is not int or not MIN_BITS <= bits <= MAX_BITS):
        raise _damaged(path, f"{bits} bits")
    if record.get("data") != _tensors_sum(tensors):
        raise _damaged(path, "the checksum of its tensors is wrong")
    return record, tensors


def _empty_model(directory: Path) -> M2M100ForConditionalGeneration:
    """Return a model of config.json's shape, its weights still to be set."""
    from transformers import GenerationConfig
    from transformers.models.m2m_100 import M2M100Config, M2M100ForConditionalGeneration

    path = directory / "config.json"
    data = read_json(path)
    kind = data.get("model_type") if isinstance(data, dict) else None
    if kind != M2M100Config.model_type:
        raise StudyError(f"{path}: model type {kind!r}, not {M2M100Config.model_type!r}; {_again(directory)}")
    try:
        config = M2M100Config.from_dict(data, attn_implementation="eager")
        # Positions are computed here. The random weights are overwritten, and must not move the global generator.
        with torch.random.fork_rng(devices=[]):
            model = M2M100ForConditionalGeneration(config)
    except (RuntimeError, ValueError, TypeError, ArithmeticError, AssertionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise StudyError(f"{path}: it describes no model ({reason}); {_again(directory)}") from error
    settings = directory / "generation_config.json"
    if settings.is_file():
        try:
            model.generation_config = GenerationConfig.from_pretrained(directory, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            raise StudyError(f"{settings}: damaged; {_again(directory)}") from error
    return model


def load_compressed(directory: str | Path) -> M2M100ForConditionalGeneration:
    """Load a compressed model as fp32, in eval mode, with eager attention and its ties.

    StudyError on missing, truncated or damaged files, an unknown format version, and weights that do not belong to
    config.json.
    """
    directory = Path(directory)
    path = directory / COMPRESSED
    if not path.is_file():
        raise StudyError(f"{path}: no such file; run the stage that writes it (dvc repro)")
    record, tensors = _read(path)
    model = _empty_model(directory)
    shapes = parameter_shapes(model)
    if record.get("shapes") != _shapes_sum(shapes):
        raise StudyError(f"{path}: the weights are of another architecture than config.json; {_again(directory)}")
    name = "its tensors"
    try:
        parts = _Parts(tensors, record["bits"])
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(parts.decode(shapes[name])))
        name = "its tensors"
        parts.finish()
    except ValueError as error:
        raise _damaged(path, f"{name}: {error}") from error
    return model.eval()


def weights_file(directory: str | Path) -> Path:
    """Return the one weights file of a model directory, dense or compressed; StudyError when there is none, or both."""
    directory = Path(directory)
    found = [directory / name for name in (DENSE, COMPRESSED) if (directory / name).is_file()]
    if not found:
        raise StudyError(f"{directory}: no {DENSE} and no {COMPRESSED}; run the stage that writes it (dvc repro)")
    if len(found) > 1:
        raise StudyError(f"{directory}: both {DENSE} and {COMPRESSED} are there; {_again(directory)}")
    return found[0]


def size_bytes(directory: str | Path) -> int:
    """Return the size in bytes of a model directory's weights file, header included."""
    return weights_file(directory).stat().st_size


def load_model(directory: str | Path) -> M2M100ForConditionalGeneration:
    """Load a model directory, dense or compressed, in eval mode; StudyError as the loader of its kind."""
    if weights_file(directory).name == COMPRESSED:
        return load_compressed(directory)
    from pipeline.models.checkpoint import load_dense

    return load_dense(directory)
