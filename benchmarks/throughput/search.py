"""The fastest settings of a Seq2SeqTrainer, found by measuring: one choice after the other, until none is left to improve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

from throughput.sides import CORES, TRAINER_DEFAULTS, Tuning, tuned_trainer
from throughput.teams import alternate

CHOICES: dict[str, list[dict[str, Any]]] = {
    "processes and threads": [{"processes": p, "threads": t} for p, t in ((1, CORES), (1, 1), (CORES, 1))],
    # together, because which attention is fast depends on the precision
    "attention and precision": [
        {"attention": a, "bf16": bf16} for a, bf16 in product(("sdpa", "eager"), (False, True))
    ],
    "MALLOC variables": [{"malloc": False}, {"malloc": True}],
    "optimizer": [{"optim": "adamw_torch_fused"}, {"optim": "adamw_torch"}],
}
_PASSES = 3
"""At most, where two alternatives are so close that chance decides."""


def search(job: dict[str, Any], *, rounds: int, steps: int, logs: Path) -> Iterator[tuple[str, dict[Tuning, float]]]:
    """Yield each choice with the target tokens a second of its alternatives, fastest first; the last one's first has won.

    It begins with the Trainer's defaults and makes each choice with the others as they are then, until the best has withstood
    all of them. Alternatives take turns; each counts with its best one, which what else the machine does has delayed least.
    """
    best, withstood = TRAINER_DEFAULTS, 0
    for choice, alternatives in islice(cycle(CHOICES.items()), _PASSES * len(CHOICES)):
        tunings = dict.fromkeys(replace(best, **changes) for changes in alternatives)
        sides = {tuning: tuned_trainer(tuning, name=f"tuning{number}") for number, tuning in enumerate(tunings)}
        turns = alternate(list(sides.values()), job, rounds=rounds, steps=steps, logs=logs, label=f"search, {choice}")
        rates = {tuning: max(turn.tokens / turn.seconds for turn in turns[side.name]) for tuning, side in sides.items()}
        ranked = {tuning: rates[tuning] for tuning in sorted(rates, key=rates.__getitem__, reverse=True)}
        yield choice, ranked
        fastest = next(iter(ranked))
        withstood = withstood + 1 if fastest == best else 1
        best = fastest
        if withstood == len(CHOICES):
            return
