"""This engine: the training loop exactly as a study runs it, one thread a process."""

from __future__ import annotations

import torch

from pipeline.budget import Ledger
from pipeline.models.seq2seq import build
from pipeline.training.loop import LoopOptions, train
from pipeline.training.objectives import CrossEntropy
from pipeline.training.precision import resolve
from pipeline.training.pricing import step_price
from pipeline.training.state import TrainState
from throughput.turns import Turns
from throughput.workload import LEARNING_RATE, Workload


def started(workload: Workload) -> TrainState:
    """Return a study's training state before the first step, on one thread and without dropout."""
    training = workload.study.training
    torch.set_num_threads(1)
    return TrainState.start(
        build(workload.size, vocab_size=workload.corpus.vocab_size, dropout=0.0, seed=0),
        stream=workload.stream(),
        precision=resolve(training.precision, torch.device("cpu")),
        learning_rate=LEARNING_RATE,
        mup_base_width=training.learning_rate.mup_base_width,
        weight_decay=training.weight_decay,
        paid=Ledger(),
    )


def loop_options(workload: Workload) -> LoopOptions:
    """Return how a study's steps are made; nothing is validated or saved."""
    training = workload.study.training
    return LoopOptions(
        objective=CrossEntropy(label_smoothing=training.label_smoothing),
        price=step_price(workload.size, vocab_size=workload.corpus.vocab_size, seconds_per_step=0.0),
        peak_rate=LEARNING_RATE,
        clip_norm=training.clip_norm,
        validate=lambda model: 0.0,
        checkpoint_path=None,
        checkpoint_seconds=float("inf"),
        device=torch.device("cpu"),
    )


def main() -> None:
    """Take turns until there are no more."""
    turns, job = Turns.join()
    workload = Workload.of(job)
    state, options = started(workload), loop_options(workload)
    while True:
        steps, before = turns.wait(), state.ledger.total.tokens
        train(state, options, phase="train", until=state.step + steps, schedule=lambda step: 1.0)
        turns.report(tokens=int(state.ledger.total.tokens - before))


if __name__ == "__main__":
    main()
