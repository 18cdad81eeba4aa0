"""Are cooldown branches worth their price? Their losses against runs planned for the same budgets, and what both cost.

    python benchmarks/branches.py --study default --size w64x2 --seconds 32

A ladder of five budgets, each half of the next, is read off one trunk; beside it every compared budget gets runs of its
own, planned for it from the first step: warm-up, then linear decay to 0 (the usual schedule when the length is known), at
the branches' peak rate and at multiples of it, of which the best by validation loss is compared. A run planned for a
budget with the branches' own schedule would be the branch, bit for bit (a test holds that). Differences are paired by
seed; the interval is Student's over the seeds. Results go to benchmarks/results/branches.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from pipeline.calibration import Calibration
from pipeline.errors import StudyError
from pipeline.expansion import expand
from pipeline.files import write_json
from pipeline.progress import progress
from pipeline.study import load_study
from pipeline.training.schedules import decay_start, linear_to_zero, trunk

RESULTS = Path("benchmarks/results/branches.json")
RUNGS = 5


def planned_schedule(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Return the rate of a run that knows its length: warm-up, then linear decay to 0."""
    return trunk(step, warmup_steps=warmup_steps) * linear_to_zero(step, total_steps=total_steps)


def final_losses(entry: dict[str, Any], corpus_path: str, steps: list[int], *, planned: bool) -> dict[int, float]:
    """Return the validation loss at the end of each number of steps: of branches off one trunk, or of planned runs."""
    import torch

    from pipeline.budget import Ledger
    from pipeline.corpora.batches import BatchStream
    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.evaluation.losses import validation_loss
    from pipeline.models.seq2seq import build
    from pipeline.size import SizeSpec
    from pipeline.training.branches import Branch, Schedule, run_branches
    from pipeline.training.loop import LoopOptions, train
    from pipeline.training.objectives import CrossEntropy
    from pipeline.training.parametrization import scale_initial
    from pipeline.training.precision import resolve
    from pipeline.training.pricing import step_price
    from pipeline.training.state import TrainState

    torch.set_num_threads(1)
    corpus, device = PreparedCorpus.open(Path(corpus_path)), torch.device("cpu")
    validate = validation_loss(corpus)
    losses: dict[int, float] = {}

    def start() -> TrainState:
        model = build(
            SizeSpec.of_record(entry), vocab_size=corpus.vocab_size, dropout=entry["dropout"], seed=entry["seed"]
        )
        scale_initial(model, base_width=entry["mup_base_width"])
        stream = BatchStream(corpus.pairs("train"), batch_tokens=entry["batch_tokens"], seed=entry["seed"])
        return TrainState.start(
            model,
            stream=stream,
            precision=resolve(entry["precision"], device),
            learning_rate=entry["learning_rate"],
            mup_base_width=entry["mup_base_width"],
            weight_decay=entry["weight_decay"],
            paid=Ledger(),
        )

    with tempfile.TemporaryDirectory() as folder:
        options = LoopOptions(
            objective=CrossEntropy(label_smoothing=entry["label_smoothing"]),
            price=step_price(
                SizeSpec.of_record(entry), vocab_size=corpus.vocab_size, seconds_per_step=entry["seconds_per_step"]
            ),
            peak_rate=entry["learning_rate"],
            clip_norm=entry["clip_norm"],
            validate=lambda model: 0.0,
            checkpoint_path=Path(folder) / "progress.pt",
            checkpoint_seconds=1e9,
            device=device,
        )
        if planned:
            for total in steps:
                state = start()
                schedule = partial(planned_schedule, warmup_steps=entry["warmup_steps"], total_steps=total)
                train(state, options, phase="planned", until=total, schedule=schedule)
                losses[total] = validate(state.model)
        else:

            def finish(branch: Branch, state: TrainState) -> None:
                losses[branch.total_steps] = validate(state.model)

            run_branches(
                start(),
                options,
                branches=[Branch(name=str(total), total_steps=total) for total in steps],
                schedule=Schedule(
                    warmup_steps=entry["warmup_steps"], decay_fraction=entry["decay_fraction"], validate_points=1
                ),
                work=Path(folder) / "work",
                finish=finish,
            )
    return losses


def ladder_steps(steps: list[int], decay_fraction: float) -> int:
    """Return the steps that a ladder takes: the longest trunk and every branch's decay."""
    starts = [decay_start(total, decay_fraction=decay_fraction) for total in steps]
    return max(starts) + sum(total - start for total, start in zip(steps, starts, strict=True))


def main() -> None:
    """Train both sides, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="default")
    parser.add_argument("--size", default="w64x2")
    parser.add_argument("--seconds", type=float, default=48.0, help="the longest budget, in calibrated device seconds")
    parser.add_argument(
        "--compared", type=int, default=2, help="how many of the budgets, from the longest, get planned runs"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="peak rates of planned runs, over the branches'"
    )
    parser.add_argument("--corpus", help="a prepared corpus; the study's by default")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    entries = expand(load_study(f"configs/{options.study}.yaml"), Calibration.load(options.study))["pretrain"]
    same = [entry for entry in entries.values() if entry["size"] == options.size]
    if not same or same[0]["seconds_per_step"] is None:
        raise StudyError(
            f"study {options.study} has no calibrated size {options.size}; see `tlc plan --study {options.study}`"
        )
    entry = same[0]
    steps = [max(2, int(options.seconds / 2**rung / entry["seconds_per_step"])) for rung in range(RUNGS)]
    compared = steps[: options.compared]
    corpus = options.corpus or f"artifacts/{options.study}/corpus"
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        seeded = [entry | {"seed": seed} for seed in range(options.seeds)]
        ladders = [pool.submit(final_losses, one, corpus, steps, planned=False) for one in seeded]
        planned = {
            (rate, n): [
                pool.submit(
                    final_losses, one | {"learning_rate": one["learning_rate"] * rate}, corpus, [n], planned=True
                )
                for one in seeded
            ]
            for rate in sorted(options.rates)
            for n in compared
        }
        branch_losses = [job.result() for job in progress(ladders, desc="ladders", unit="run")]
        planned_losses = {
            (rate, n): np.array([job.result()[n] for job in jobs])
            for (rate, n), jobs in progress(list(planned.items()), desc="planned runs", unit="rate")
        }
    rows = []
    for total in compared:
        branch = np.array([losses[total] for losses in branch_losses])
        by_rate = {rate: losses for (rate, n), losses in planned_losses.items() if n == total}
        best_rate = min(by_rate, key=lambda rate: float(by_rate[rate].mean()))
        at_edge = len(by_rate) > 1 and best_rate in (min(by_rate), max(by_rate))
        plan = by_rate[best_rate]
        difference = branch - plan
        half = stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
        percent = 100 / plan.mean()
        rows.append(
            {
                "steps": total,
                "budget_seconds": round(total * entry["seconds_per_step"], 2),
                "branch_loss": branch.tolist(),
                "planned_loss": {str(rate): losses.tolist() for rate, losses in by_rate.items()},
                "planned_rate": best_rate,
                "planned_rate_at_edge": at_edge,
                "difference_percent": difference.mean() * percent,
                "low_percent": (difference.mean() - half) * percent,
                "high_percent": (difference.mean() + half) * percent,
            }
        )
        print(
            f"{total} steps: branch {branch.mean():.4f}, planned {plan.mean():.4f} at {best_rate:g} times the peak rate"
            f"{' (the edge of the rates tried)' if at_edge else ''}, difference "
            f"{rows[-1]['difference_percent']:+.2f} % ({rows[-1]['low_percent']:+.2f} to {rows[-1]['high_percent']:+.2f})"
        )
    cost = ladder_steps(steps, entry["decay_fraction"]) / steps[0]
    separate = sum(steps) / steps[0]
    print(
        f"a ladder of {RUNGS} budgets costs {cost:.2f} times its longest run, {RUNGS} planned runs {separate:.2f} times"
    )
    record = {
        "benchmark": Path(__file__).stem,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "ours": {"ladder_cost_of_longest": cost},
        "peers": {"planned_runs": {"ladder_cost_of_longest": separate}},
        "ratio": {"planned_runs": separate / cost},
        "losses": rows,
        "equal": f"{options.size} of {options.study}, {options.seeds} seeds, the same batches and steps; planned runs "
        "at the best of their peak rates",
    }
    options.results.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.results, record)
    print(json.dumps(record))


if __name__ == "__main__":
    try:
        main()
    except StudyError as error:
        sys.exit(f"error: {error}")
