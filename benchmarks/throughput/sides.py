"""Who is compared with whom: this engine, its peers, and the measurement of the processor's peak."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.evaluation.step_seconds import ENVIRONMENT
from throughput.teams import Side

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Every side may use all of them."""

MALLOC = {name: value for name, value in ENVIRONMENT.items() if name.startswith("MALLOC_")}
OURS, PEAK = "ours", "gemm"


def threads(count: int) -> dict[str, str]:
    """Return the environment of a process with `count` threads."""
    return {"OMP_NUM_THREADS": str(count)}


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What may be chosen about a Seq2SeqTrainer on a CPU without another model or another loop."""

    attention: str  # eager | sdpa
    bf16: bool
    optim: str
    processes: int  # side by side
    threads: int  # in each
    malloc: bool  # whether glibc keeps large temporaries, as the study's processes make it

    def __str__(self) -> str:
        precision = "bf16" if self.bf16 else "fp32"
        shape = f"{self.processes} x {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.attention}, {precision}, {self.optim}, {shape}, MALLOC variables {'set' if self.malloc else 'not set'}"


TRAINER_DEFAULTS = Tuning(
    attention="sdpa", bf16=False, optim="adamw_torch_fused", processes=1, threads=CORES, malloc=False
)
BEST_TUNING = Tuning(attention="eager", bf16=True, optim="adamw_torch_fused", processes=CORES, threads=1, malloc=True)
"""What `--search 128 --rounds 15 --steps 3` found on 2 cores with AMX (torch 2.13.0, transformers 4.57.6); the choices in
their order, each with those before it made:

| choice | thousand target tokens a second |
|---|---|
| processes x threads | 2 x 1: 11.0, 1 x 2: 10.6, 1 x 1: 7.5 |
| attention, precision | eager bf16: 12.0, sdpa fp32: 10.3, eager fp32: 8.8, sdpa bf16: 8.6 |
| MALLOC variables | set: 13.6, not set: 13.6 |
| optimizer | fused: 11.5, not fused: 11.3 |

Rows are not comparable with each other, because the machine was shared. The MALLOC variables made no difference; the study sets them.
"""


def tuned_trainer(tuning: Tuning, *, name: str = "trainer_tuned") -> Side:
    """Return the side of a Seq2SeqTrainer with these settings; keys and values are not cached either, as in any training."""
    return Side(
        name=name,
        description=f"transformers' Seq2SeqTrainer, tuned: {tuning}",
        module="trainer",
        processes=tuning.processes,
        environment=threads(tuning.threads) | (MALLOC if tuning.malloc else {}),
        settings={
            "attention": tuning.attention,
            "use_cache": False,
            "arguments": {"bf16": tuning.bf16, "optim": tuning.optim},
        },
    )


def ours() -> Side:
    """Return this engine as `make study` runs it."""
    return Side(
        name=OURS,
        description=f"this engine as a study uses it, {CORES} one-thread processes side by side",
        module="engine",
        processes=CORES,
        environment=ENVIRONMENT,
    )


def gemm() -> Side:
    """Return the measurement of the peak."""
    return Side(
        name=PEAK,
        description=f"bf16 matrix products, {CORES} one-thread processes side by side",
        module="gemm",
        processes=CORES,
        environment=threads(1),
    )


def peers(tuning: Tuning, *, fairseq_python: Path, fairseq_settings: dict[str, Any]) -> dict[str, Side]:
    """Return every peer by name."""
    sides = [
        Side(
            name="trainer",
            description="transformers' Seq2SeqTrainer as it comes: fp32, sdpa attention, its default optimizer and threads",
            module="trainer",
            settings={"attention": "sdpa", "use_cache": True, "arguments": {}},
        ),
        tuned_trainer(tuning),
        Side(
            name="plain_loop",
            description=f"a plain fp32 PyTorch loop around transformers' model, {CORES} threads",
            module="plain_loop",
            environment=threads(CORES),
        ),
        Side(
            name="fairseq",
            description=f"fairseq-train (benchmarks/fairseq-requirements.txt) in fp32, {CORES} threads",
            module="fairseq_train",
            environment=threads(CORES),
            settings=fairseq_settings,
            python=str(fairseq_python),
        ),
    ]
    return {side.name: side for side in sides}
