"""Where a training step's time goes, operation by operation, in one single-thread process.

    python benchmarks/step_profile.py --d-model 256

Needs a prepared corpus (`dvc repro prepare@default`). One batch is trained on again and again; of each operation on
tensors of one shape the fastest fifth of its calls sets the time, so that a busy machine counts little. torch's profiler
adds its own cost to every call. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from functools import partial
from itertools import cycle
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from pipeline.errors import StudyError
from pipeline.evaluation.step_seconds import ENVIRONMENT
from pipeline.training.loop import train
from throughput.engine import loop_options, started
from throughput.workload import Workload

WARMUP_STEPS = 3


def milliseconds(workload: Workload, steps: int) -> dict[str, float]:
    """Return the milliseconds of a step by operation, the costliest first."""
    state, options = started(workload), loop_options(workload)
    state.stream = cycle(workload.batches()[:1])  # type: ignore[assignment]
    go_on = partial(train, state, options, phase="train", schedule=lambda step: 1.0)
    go_on(until=WARMUP_STEPS)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        go_on(until=WARMUP_STEPS + steps)
    calls: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in recorded.events() or ():
        calls[event.name, str(event.input_shapes)].append(event.self_cpu_time_total)
    by_name: dict[str, float] = defaultdict(float)
    for (name, _), times in calls.items():
        by_name[name] += sorted(times)[len(times) // 5] * len(times) / steps / 1e3
    return dict(sorted(by_name.items(), key=lambda item: -item[1]))


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
