"""Where a training step's time goes, operation by operation, in one single-thread process.

    python benchmarks/step_profile.py --d-model 256

Needs a prepared corpus (`dvc repro prepare@default`). One batch is trained on again and again, and the fastest step
counts, so that a busy machine counts little. torch's profiler adds its own cost to every call. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, schedule

from pipeline.corpora.batches import Batch
from pipeline.errors import StudyError
from pipeline.evaluation.step_seconds import ENVIRONMENT
from pipeline.training.loop import train
from throughput.engine import loop_options, started
from throughput.workload import Workload


def milliseconds(workload: Workload, steps: int) -> dict[str, float]:
    """Return the milliseconds of the fastest of some steps by operation, the costliest first."""
    state, options = started(workload), loop_options(workload)
    batch = workload.batches()[0]
    taken: list[dict[str, float]] = []

    def note(recorded: profile) -> None:
        taken.append({event.key: event.self_cpu_time_total / 1e3 for event in recorded.key_averages()})

    one_at_a_time = schedule(wait=0, warmup=1, active=1)
    with profile(activities=[ProfilerActivity.CPU], schedule=one_at_a_time, on_trace_ready=note) as profiler:

        def stream() -> Iterator[Batch]:
            """Yield the batch for ever; a step begins where it is asked for."""
            while True:
                profiler.step()
                yield batch

        endless: Any = stream()  # a step asks a stream for the next batch and nothing else
        state.stream = endless
        train(state, options, phase="train", until=2 * steps + 2, schedule=lambda step: 1.0)
    fastest = min(taken, key=lambda one: sum(one.values()))
    return dict(sorted(fastest.items(), key=lambda item: -item[1]))


def main() -> None:
    """Measure, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rows", type=int, default=16, help="how many operations to print")
    parser.add_argument("--corpus", type=Path, default=Path("artifacts/default/corpus"), help="a prepared corpus")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):  # glibc reads them at a start
        os.environ.update(ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    workload = Workload.of({"corpus": str(options.corpus), "d_model": options.d_model, "steps": 1})
    taken = milliseconds(workload, options.steps)
    total = sum(taken.values())
    print(f"{total:8.1f} ms a step, d_model {options.d_model}, {workload.batches()[0].target_tokens} target tokens")
    for name, value in list(taken.items())[: options.rows]:
        print(f"{value:8.2f} ms {100 * value / total:5.1f} %  {name}")
    print(json.dumps({"benchmark": Path(__file__).stem, "d_model": options.d_model, "milliseconds_a_step": taken}))


if __name__ == "__main__":
    try:
        main()
    except StudyError as error:
        sys.exit(f"error: {error}")
