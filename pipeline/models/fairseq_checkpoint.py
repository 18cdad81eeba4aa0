"""A fairseq checkpoint as options and tensors, read without running anything that is in it."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import StudyError


class _Meter:
    """Stands in for the meters that old checkpoints keep beside the weights; it has no method."""


_INERT: list[Any] = [
    argparse.Namespace,
    *((_Meter, f"fairseq.meters.{name}") for name in ("AverageMeter", "StopwatchMeter", "TimeMeter")),
]
"""What a checkpoint may hold beside tensors and plain values: names and values without code. All else is refused."""


@dataclass(frozen=True, kw_only=True)
class FairseqCheckpoint:
    """What an import needs of a checkpoint."""

    path: Path
    options: dict[str, Any]
    """The model's options by their names on fairseq's command line, with `arch`."""
    weights: dict[str, Tensor]
    """fp32 tensors by fairseq's names."""
    seed: int | None
    updates: int | None
    languages: tuple[str | None, str | None]


def _plain(value: Any) -> dict[str, Any]:
    """Return the entries of a mapping or a namespace; none of anything else."""
    if isinstance(value, argparse.Namespace):
        return dict(vars(value))
    return dict(value) if isinstance(value, Mapping) else {}


def _flat(model: dict[str, Any]) -> dict[str, Any]:
    """Return options under their command-line names: encoder: {layers: 6} is encoder_layers, as fairseq itself reads it."""
    flat: dict[str, Any] = {}
    for name, value in model.items():
        if name in ("encoder", "decoder", "quant_noise") and isinstance(value, Mapping):
            flat |= {f"{name}_{part}": inner for part, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _load(path: Path) -> dict[str, Any]:
    """Return the checkpoint's dictionary; torch's restricted reader refuses every class and function but the inert ones."""
    if not path.is_file():
        if ":" in path.name:
            raise StudyError(
                f"{path}: an ensemble is several models; import one, or average them first (fairseq's average_checkpoints.py)"
            )
        raise StudyError(f"{path}: no such file; give a checkpoint that fairseq-train wrote")
    try:
        with torch.serialization.safe_globals(_INERT):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's message carries terminal colours and advice to switch the safeguard off.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named:
            raise StudyError(
                f"{path}: it holds {named[1]}, which may run code when it is read, so nothing of it was; "
                "give a checkpoint of tensors and options alone"
            ) from error
        raise StudyError(f"{path}: not a checkpoint, or a damaged one; copy it again") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:120]
        raise StudyError(f"{path}: the checkpoint is damaged ({reason}); copy it again") from error
    if not isinstance(state, dict) or not isinstance(state.get("model"), Mapping):
        raise StudyError(f"{path}: there is no fairseq model in it; give a checkpoint that fairseq-train wrote")
    return state


def read_checkpoint(path: str | Path) -> FairseqCheckpoint:
    """Read a checkpoint of fairseq-train, old (`args`) or new (`cfg`), averaged or not.

    StudyError on a missing or damaged file, on one that holds anything but tensors, plain values and option namespaces,
    and on an ensemble.
    """
    path = Path(path)
    state = _load(path)
    configuration = _plain(state.get("cfg"))
    old = _plain(state.get("args"))
    model = _flat(old or _plain(configuration.get("model")))
    if not model:
        raise StudyError(
            f"{path}: it has neither `args` nor `cfg`, so its shape is not known; give the file that fairseq-train wrote"
        )
    model["arch"] = model.get("arch") or model.get("_name")
    weights = {str(name): tensor.float() for name, tensor in state["model"].items() if isinstance(tensor, Tensor)}
    task = old or _plain(configuration.get("task"))
    history = state.get("optimizer_history") or [{}]
    updates = _plain(history[-1]).get("num_updates")
    seed = (old or _plain(configuration.get("common"))).get("seed")
    return FairseqCheckpoint(
        path=path,
        options=model,
        weights=weights,
        seed=seed if isinstance(seed, int) else None,
        updates=updates if isinstance(updates, int) else None,
        languages=(task.get("source_lang"), task.get("target_lang")),
    )
