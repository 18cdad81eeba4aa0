"""Everything a training run is at one step, and its atomic checkpoint."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.budget import Ledger
from pipeline.corpora.batches import BatchStream
from pipeline.errors import StudyError
from pipeline.files import atomic_path
from pipeline.training.devices import random_state, set_random_state
from pipeline.training.forward import Forward, forward_of
from pipeline.training.parallel import count, gathered_objects, leads, part_random_numbers, rank, wait


@dataclass(kw_only=True)
class TrainState:
    """Model, optimizer, batch stream, masks, step, ledger and loss curve; what a resumed run needs, and nothing else.

    `forward` computes with `model`'s weights, which it has laid out for that.
    """

    model: Any
    forward: Forward
    optimizer: torch.optim.Optimizer
    stream: BatchStream
    masks: dict[str, torch.Tensor] = field(default_factory=dict)
    step: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    curve: list[dict[str, Any]] = field(default_factory=list)
    loss_sum: float = 0.0  # of the training losses since the last point of the curve
    loss_count: int = 0

    @classmethod
    def start(
        cls, model: Any, *, stream: BatchStream, precision: str, learning_rate: float, mup_base_width: int | None,
        weight_decay: float, paid: Ledger,
    ) -> TrainState:  # fmt: skip
        """Return the state before a model's first step, where the model lies; `paid` is what was spent on it before."""
        part_random_numbers()
        forward = forward_of(model, precision=precision, mup_base_width=mup_base_width)
        optimizer = forward.weights.adamw(learning_rate=learning_rate, weight_decay=weight_decay)
        return cls(model=model, forward=forward, optimizer=optimizer, stream=stream, ledger=paid)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors, numbers, strings, lists and dicts: what `weights_only` loading admits.

        Random generators are those of every process; all processes must call this together.
        """
        weights = self.forward.weights
        return {
            "model": self.model.state_dict(),
            "latent": None if weights.latent is weights.master else weights.latent,
            "optimizer": self.optimizer.state_dict(),
            "stream": self.stream.state(),
            "masks": self.masks,
            "step": self.step,
            "ledger": self.ledger.as_dict(),
            "curve": self.curve,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "rng": gathered_objects(random_state(self._device)),
        }

    def load_state_dict(self, data: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, this process's random generators included.

        StudyError when another number of processes or another kind of device made it: no random number would be the same.
        """
        generators, device = data["rng"], self._device
        if len(generators) != count() or generators[0].keys() != random_state(device).keys():
            made = f"{len(generators)} process(es) on {'a GPU' if 'cuda' in generators[0] else 'the CPU'}"
            raise StudyError(
                f"the checkpoint was made by {made}, and goes on exactly only there; run it so again, or "
                "delete this run's folder under .work/ to start anew"
            )
        self.model.load_state_dict(data["model"])
        if data.get("latent") is not None:
            self.forward.weights.part_latent()
            self.forward.weights.latent.copy_(data["latent"])
        self.optimizer.load_state_dict(data["optimizer"])
        self.stream.load_state(data["stream"])
        self.masks = {name: mask.to(device) for name, mask in data["masks"].items()}
        self.step = data["step"]
        self.ledger = Ledger.from_dict(data["ledger"])
        self.curve = list(data["curve"])
        self.loss_sum = data["loss_sum"]
        self.loss_count = data["loss_count"]
        set_random_state(generators[rank()], device)

    @property
    def _device(self) -> torch.device:
        return self.forward.weights.master.device


def save_checkpoint(path: Path, data: dict[str, Any]) -> None:
    """Write a checkpoint atomically: a crash or a full disk leaves the one before it.

    Of several processes the first one writes, and all return when it is there.
    """
    if leads():
        with atomic_path(path) as temporary:
            torch.save(data, temporary)
    wait()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without unpickling code; StudyError names a damaged one."""
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError, OSError) as error:
        raise StudyError(
            f"{path}: the checkpoint is damaged ({type(error).__name__}); delete it and run the same command again"
        ) from error
