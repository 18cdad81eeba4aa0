"""Data parallel training under torchrun: each process takes its share of every batch's rows, one sum makes them one.

    torchrun --nproc-per-node 2 -m -- stages.pretrain --run default-w64x2-s0

(Without ``--`` torchrun would take ``--run`` for an option of its own.)

DistributedDataParallel is not used. It reduces what autograd accumulates in a module's own parameters, but here those
are views, and the gradients those of leaves beside them (weights.py). They end in one flat tensor, so that one
all-reduce does what its buckets do. It would also take the mean over processes, where the loss is one over tokens.

Without torchrun every function here is the identity. Under it each must be called by all processes, in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.corpora.batches import Batch
from pipeline.training.devices import training_device

_SEED_STRIDE = 1_000_003  # far beyond any study's seeds: process 1 of seed 0 must not draw what seed 1 draws


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun has started, for as long as the context lasts; alone, do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    on_gpu = training_device().type == "cuda"
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def count() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def leads() -> bool:
    """Return whether this process is the one that writes files and lines for all."""
    return rank() == 0


def say(line: str) -> None:
    """Print a line once for all processes."""
    if leads():
        print(line)


def wait() -> None:
    """Wait until all processes are here: what the leading one has written before, others may read after."""
    if count() > 1:
        dist.barrier()


def share_of(batch: Batch) -> Batch | None:
    """Return the rows of a batch that are this process's; None where there are fewer rows than processes."""
    shares = batch.split(count())
    return shares[rank()] if rank() < len(shares) else None


def add_up(tensor: Tensor) -> None:
    """Replace a tensor by its sum over all processes."""
    if count() > 1:
        dist.all_reduce(tensor)


def gathered(*values: float) -> Tensor:
    """Return the values of all processes, float64 (processes, values), in their order."""
    own = torch.tensor(values, dtype=torch.float64)
    if count() == 1:
        return own.unsqueeze(0)
    rows = [torch.empty_like(own) for _ in range(count())]
    dist.all_gather(rows, own)
    return torch.stack(rows)


def gathered_objects(value: Any) -> list[Any]:
    """Return the objects of all processes in their order."""
    values = [value]
    if count() > 1:
        values = [None] * count()
        dist.all_gather_object(values, value)
    return values


def part_random_numbers() -> None:
    """Seed torch's generators of all processes but the first anew: two shares of a batch must not drop out the same units."""
    if rank():
        torch.manual_seed(torch.initial_seed() + _SEED_STRIDE * rank())
