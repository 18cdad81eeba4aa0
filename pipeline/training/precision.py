"""Which number format the matmuls of training run in."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import torch


@functools.cache
def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def resolve(precision: str, device: torch.device) -> str:
    """Return ``bf16`` or ``fp32``: ``auto`` takes bf16 where the CPU (AMX or AVX512_BF16) or the GPU multiplies it in hardware."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if _cpu_has_bf16() else "fp32"


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context in which forward passes run; fp32 needs none."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
