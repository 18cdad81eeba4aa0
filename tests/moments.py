"""The moments of a run at which something may befall it, and what befalls it there.

Every training step is a moment, before it is made, and so is every change to the run's files. They are counted from 0,
so that the same run is struck at the same place again.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

STEP, WRITE, RENAME, REMOVE = "step", "write", "rename", "remove"


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What comes next, and in which phase of training, or after which one."""

    phase: str
    kind: str
    name: str  # of the file, without what is random in a temporary's; of a step, its number


@dataclass(frozen=True, kw_only=True)
class Strike:
    """What befalls a run: at a moment; for a kill, also after so many seconds, wherever the run then is."""

    how: str  # "kill", "stop" (SIGTERM), or "full": no file grows past `free_bytes` from then on
    moment: int | None = None
    seconds: float | None = None
    free_bytes: int = 0


@dataclass(kw_only=True)
class Watch:
    """Counts the moments of the run that this process makes, writes them to a pipe, and strikes at one of them."""

    folder: str
    strike: Strike | None
    pipe: int
    count: int = 0
    steps: int = 0
    phase: str = "start"
    limits: tuple[int, int] = field(default_factory=lambda: resource.getrlimit(resource.RLIMIT_FSIZE))

    def tell(self, **line: Any) -> None:
        """Write a line of JSON to the pipe."""
        os.write(self.pipe, json.dumps(line).encode() + b"\n")

    def note(self, kind: str, name: str, *, begin: Callable[[], None] = lambda: None) -> None:
        """Report a moment; `begin` begins what it is the moment of, so that a kill comes in the middle."""
        self.tell(phase=self.phase, kind=kind, name=name)
        strike = self.strike if self.strike and self.strike.moment == self.count else None
        self.count += 1
        self.steps += kind == STEP
        if strike and strike.how == "kill":
            begin()
            os.kill(os.getpid(), signal.SIGKILL)
        elif strike and strike.how == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        elif strike:
            # The writes fail in earnest, whatever language they are made in; only the reason is another than a full disk's.
            resource.setrlimit(resource.RLIMIT_FSIZE, (strike.free_bytes, self.limits[1]))
            shutil.disk_usage = lambda path: SimpleNamespace(free=0)  # type: ignore[assignment,return-value,misc]

    def free(self) -> None:
        """Let writes succeed again."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note what changes the run's files, as an audit hook; rmtree names what it removes within an open directory."""
        kind = {"os.rename": RENAME, "os.remove": REMOVE, "os.rmdir": REMOVE}.get(event)
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            kind = WRITE
        if kind is None or not isinstance(arguments[0], str | Path):
            return
        if str(arguments[0]).startswith(self.folder) or (kind == REMOVE and arguments[-1] != -1):
            self.note(kind, _final_name(arguments[0]))


_watch: Watch  # of the one run that this process makes


def begin_watch(watch: Watch) -> None:
    """Let `watch` have the moments of this process; it cannot be undone."""
    global _watch
    _watch = watch
    sys.addaudithook(watch.audit)


def _final_name(path: object) -> str:
    """Return a file's name; ``.name.1234abcd.tmp`` is ``name``."""
    name = Path(str(path)).name
    return name[1:].rsplit(".", 2)[0] if name.startswith(".") else name


def _noted_save(plain: Callable[..., None]) -> Callable[..., None]:
    def save(data: Any, path: Any, **options: Any) -> None:
        def begin() -> None:
            plain(data, path, **options)
            os.truncate(path, os.path.getsize(path) // 2)

        _watch.note(WRITE, _final_name(path), begin=begin)
        plain(data, path, **options)

    return save


def _noted_tokenizer(plain: Callable[..., Any]) -> Callable[..., Any]:
    def save(self: Any, *arguments: Any, **options: Any) -> Any:
        _watch.note(WRITE, "tokenizer.json")
        return plain(self, *arguments, **options)

    return save


def _noted_step(plain: Callable[..., Any]) -> Callable[..., Any]:
    def loss(*arguments: Any, step: int) -> Any:
        _watch.note(STEP, str(step))
        return plain(*arguments, step=step)

    return loss


def _noted_phase(plain: Callable[..., None]) -> Callable[..., None]:
    def train(*arguments: Any, phase: str, **options: Any) -> None:
        _watch.phase = phase
        plain(*arguments, phase=phase, **options)
        _watch.phase = f"after {phase}"

    return train


def import_noted() -> None:
    """Import torch and the pipeline so that steps, phases and files written in other languages are noted."""
    import safetensors.numpy
    import safetensors.torch
    import torch

    for module, name in ((torch, "save"), (safetensors.torch, "save_file"), (safetensors.numpy, "save_file")):
        setattr(module, name, _noted_save(getattr(module, name)))  # before anyone imports it by name

    import transformers
    from transformers.models.m2m_100 import M2M100ForConditionalGeneration  # noqa: F401

    import pipeline.compression.recovery
    import pipeline.distillation.losses
    import pipeline.distillation.students
    import pipeline.evaluation.losses
    import pipeline.training.branches
    import pipeline.training.finetuning
    import pipeline.training.objectives

    wrapped: list[tuple[Any, str, Callable[..., Any]]] = [
        (transformers.PreTrainedTokenizerFast, "_save_pretrained", _noted_tokenizer),
        (pipeline.training.objectives.CrossEntropy, "__call__", _noted_step),
        (pipeline.distillation.losses.WordDistillation, "__call__", _noted_step),
        (pipeline.training.branches, "train", _noted_phase),
        (pipeline.training.finetuning, "train", _noted_phase),
        (pipeline.compression.recovery, "train", _noted_phase),
        (pipeline.distillation.students, "train", _noted_phase),
    ]
    for owner, name, noted in wrapped:
        setattr(owner, name, noted(getattr(owner, name)))
