"""One of several processes that pretrain together, for the tests: `torchrun tests/training/together.py settings.json`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.evaluation.losses import validation_loss
from pipeline.training.interrupts import Interrupted
from pipeline.training.objectives import CrossEntropy
from pipeline.training.parallel import joined, rank
from pipeline.training.pretraining import pretrain


def stop_at(call: int, process: int) -> None:
    """Let one process get SIGTERM within a call of its objective, counted from 1."""
    plain, calls = CrossEntropy.__call__, []

    def observed(self: CrossEntropy, forward: Any, batch: Any, *, step: int) -> torch.Tensor:
        calls.append(step)
        if len(calls) == call and rank() == process:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, forward, batch, step=step)

    CrossEntropy.__call__ = observed  # type: ignore[method-assign]


def main() -> None:
    """Pretrain every run of the settings, one after the other; write how each ended in this process."""
    torch.set_num_threads(1)
    runs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    plain = CrossEntropy.__call__
    with joined():
        for run in runs:
            corpus, folder = PreparedCorpus.open(Path(run["corpus"])), Path(run["folder"])
            CrossEntropy.__call__ = plain  # type: ignore[method-assign]
            if run["stop"]:
                stop_at(*run["stop"])
            arguments = {"corpus": corpus, "out": folder / "out", "work": folder / "work"}
            try:
                end = pretrain(run["entry"], key="tiny", validate=validation_loss(corpus), **arguments)
            except Interrupted as stop:
                end = str(stop.exit_code)
            with (folder / f"ends-{rank()}.txt").open("a", encoding="utf-8") as file:
                file.write(f"{end}\n")


if __name__ == "__main__":
    main()
