"""Where training runs, and what this machine does otherwise than another: properties of the machine, never of a study.

They are environment variables: the same study gives the same results, up to rounding and, with dropout, up to which
units are dropped, whatever they say, so they have no place in params.yaml, where a change would make finished runs stale.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from pipeline.errors import StudyError, nearest

DEVICE = "TLC_DEVICE"
"""``auto`` (the default: the GPU where there is one), ``cpu`` or ``cuda``."""
COMPILE = "TLC_COMPILE"
"""``1``: torch.compile the model on a GPU. The first steps take minutes; later ones are faster."""
MICRO_BATCH_TOKENS = "TLC_MICRO_BATCH_TOKENS"
"""Most padded tokens that a process computes with at once; a larger batch is accumulated. Unset: whole batches."""


def _choice(name: str, default: str, *known: str) -> str:
    value = os.environ.get(name) or default
    if value not in known:
        raise StudyError(f"{name}={value}: choose one of {', '.join(known)}{nearest(value, known)}")
    return value


def move(module: nn.Module, device: torch.device) -> None:
    """Move a module in place: any module, for transformers hides what its own models' `to` takes."""
    module.to(device)


def training_device() -> torch.device:
    """Return the GPU of this process (torchrun's LOCAL_RANK numbers them), made torch's current one, or the CPU.

    StudyError when $TLC_DEVICE asks for a GPU that is not there, or torchrun has started more processes than GPUs.
    """
    wanted = _choice(DEVICE, "auto", "auto", "cpu", "cuda")
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise StudyError(f"{DEVICE}=cuda, but torch finds no GPU; leave {DEVICE} unset to train on the CPU")
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise StudyError(
            f"process {number} of this machine has no GPU ({count} found); start at most {count} with "
            f"--nproc-per-node, or set {DEVICE}=cpu"
        )
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def compiles() -> bool:
    """Return whether models on a GPU are to be compiled."""
    return _choice(COMPILE, "0", "0", "1") == "1"


def micro_batch_tokens() -> int | None:
    """Return the most padded tokens to compute with at once, None for whole batches; StudyError on what is no such number."""
    text = os.environ.get(MICRO_BATCH_TOKENS)
    if not text:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise StudyError(f"{MICRO_BATCH_TOKENS}={text}: write a positive number of tokens, such as 16384")
    return int(text)


def finish_work(device: torch.device) -> None:
    """Wait until a GPU has done what it was given: a clock read before says how long the giving took."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the states (bytes) of all random generators that training on `device` draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Restore what `random_state` returned on the same kind of device."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
