"""Runs in processes of their own, which may be killed, stopped, or find the disk full; `python -m tests.attempts` makes them.

That process imports everything once and forks a child for every attempt: a new interpreter takes seconds to import torch.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.moments import RENAME, STEP, Moment, Strike, Watch, begin_watch, import_noted

NEVER, SOME_STEPS, EVERY_STEP = 0.0, 0.3, 2.0
"""Seconds that a step takes by a run's clock, where a checkpoint is due after more than 1 s."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One run of a study: which function makes it, its entry of params.yaml, and the folders that it reads."""

    function: str  # "pretrain", "finetune", "prune" or "distill"
    entry: dict[str, Any]
    inputs: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """How an attempt went: exit code (negative for a signal), the message of its fault, its length, its moments."""

    code: int
    fault: str
    seconds: float
    moments: list[Moment]

    def steps(self, *, saved: bool = False) -> list[tuple[str, str]]:
        """Return the steps made, each by phase and number; if `saved`, those that a checkpoint holds which is surely whole."""
        moments = self.moments
        if saved:
            renamed = [i for i, m in enumerate(moments[:-1]) if m.kind == RENAME and m.name.endswith(".pt")]
            moments = moments[: max(renamed, default=0)]
        return [(moment.phase, moment.name) for moment in moments if moment.kind == STEP]


class Attempts:
    """A process that makes attempts, one at a time, within a context."""

    def __enter__(self) -> Self:
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # of several, a fork copies one
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.attempts"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parent.parent,
            env=os.environ | threads,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()

    def __call__(
        self, command: Command, folder: Path, *, seconds_per_step: float, strike: Strike | None = None
    ) -> Attempt:
        """Make `command` in ``folder/work`` for ``folder/out``, by a clock that training steps alone advance."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {
            "command": dataclasses.asdict(command),
            "folder": str(folder),
            "seconds_per_step": seconds_per_step,
            "strike": dataclasses.asdict(strike) if strike else None,
        }
        print(json.dumps(order), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, "the process that makes attempts is gone"
        answer = json.loads(line)
        return Attempt(**answer | {"moments": [Moment(**moment) for moment in answer["moments"]]})


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The runs of a study by name, to be made again and again, and each as it goes when nothing befalls it."""

    attempts: Attempts
    commands: dict[str, Command]
    folder: Path
    made: dict[tuple[str, float], Attempt] = field(default_factory=dict)

    def __call__(
        self, name: str, folder: Path, *, seconds_per_step: float = NEVER, strike: Strike | None = None
    ) -> Attempt:
        """Make a run, or go on with it, under `folder`."""
        return self.attempts(self.commands[name], folder, seconds_per_step=seconds_per_step, strike=strike)

    def calm(self, name: str, seconds_per_step: float) -> Attempt:
        """Return an attempt that nothing befell."""
        place = name, seconds_per_step
        if place not in self.made:
            self.made[place] = self(name, self.folder / f"{name}-{seconds_per_step}", seconds_per_step=seconds_per_step)
            assert self.made[place].code == 0, self.made[place].fault
        return self.made[place]

    def whole(self, name: str) -> Path:
        """Return the output of a run that was never interrupted and made no checkpoints."""
        self.calm(name, NEVER)
        return self.folder / f"{name}-{NEVER}" / "out"


def _make(command: Command, folder: Path) -> None:
    """Make the run as its stage does."""
    from pipeline.compression.families import compress
    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.distillation.students import distill
    from pipeline.evaluation.losses import validation_loss
    from pipeline.training.finetuning import finetune
    from pipeline.training.pretraining import pretrain

    functions: dict[str, Callable[..., str]] = {
        "pretrain": pretrain,
        "finetune": finetune,
        "prune": compress,
        "distill": distill,
    }
    paths = {name: Path(path) for name, path in command.inputs.items()}
    corpus = PreparedCorpus.open(paths.pop("corpus"))
    paths |= {"out": folder / "out", "work": folder / "work"}
    functions[command.function](command.entry, key="tiny", corpus=corpus, validate=validation_loss(corpus), **paths)


def _in_this_process(order: dict[str, Any], pipe: int) -> int:
    """Make the attempt; return the exit code that its stage would have."""
    import numpy as np
    import torch

    from pipeline.errors import StudyError
    from pipeline.training.interrupts import Interrupted

    os.dup2(2, 1)  # stdout belongs to the answers
    # Where the generators of a new process stand is nobody's to rely on.
    random.seed(os.getpid())
    np.random.seed(os.getpid())  # noqa: NPY002
    torch.manual_seed(os.getpid())
    strike = Strike(**order["strike"]) if order["strike"] else None
    watch = Watch(folder=order["folder"], strike=strike, pipe=pipe)
    time.monotonic = lambda: watch.steps * order["seconds_per_step"]
    begin_watch(watch)
    try:
        _make(Command(**order["command"]), Path(order["folder"]))
    except Interrupted as stop:
        watch.tell(fault=str(stop))
        return stop.exit_code
    except StudyError as error:
        watch.tell(fault=str(error))
        return 1
    except BaseException as error:
        watch.tell(fault=f"{type(error).__name__}: {error}")
        watch.free()  # for the traceback
        traceback.print_exc()
        return 70
    return 0


def _listen(pipe: int, child: int, seconds: float | None) -> list[dict[str, Any]]:
    """Return all lines that the child writes until it is gone; kill it after `seconds`."""
    told, deadline = b"", None if seconds is None else time.perf_counter() + seconds
    while True:
        left = None if deadline is None else max(0.0, deadline - time.perf_counter())
        if not select.select([pipe], [], [], left)[0]:
            os.kill(child, signal.SIGKILL)
            deadline = None
            continue
        part = os.read(pipe, 1 << 16)
        if not part:
            return [json.loads(line) for line in told.splitlines()]
        told += part


def _in_a_child(order: dict[str, Any]) -> dict[str, Any]:
    """Make the attempt in a fork of this process; return the fields of its Attempt."""
    reading, writing = os.pipe()
    began = time.perf_counter()
    child = os.fork()
    if not child:
        code = 71
        try:
            code = _in_this_process(order, writing)
        finally:
            os._exit(code)
    os.close(writing)
    told = _listen(reading, child, (order["strike"] or {}).get("seconds"))
    os.close(reading)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {
        "code": code,
        "fault": next((line["fault"] for line in told if "fault" in line), ""),
        "seconds": time.perf_counter() - began,
        "moments": [line for line in told if "fault" not in line],
    }


def main() -> None:
    """Answer a line of JSON for every line of JSON that comes."""
    import_noted()
    import torch

    from pipeline.models.checkpoint import provenance

    torch.set_num_threads(1)
    provenance()  # asks git once instead of in every attempt
    assert threading.active_count() == 1
    for line in sys.stdin:
        print(json.dumps(_in_a_child(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
