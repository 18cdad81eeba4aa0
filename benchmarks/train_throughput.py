"""Training throughput of this engine against its peers: the same model and batches, in turns, in one run.

    python benchmarks/train_throughput.py --d-model 64 128 256

Needs a prepared corpus (`dvc repro prepare@default`). Every side has processes of its own that sleep while another has its
turn; in a round all sides train on the same batches. A ratio is ours over the peer's target tokens a second, the median over
rounds; higher is better. The peers: transformers' Seq2SeqTrainer as it comes, and with the fastest settings that a search found
(`--search 128` searches anew, some minutes); a plain fp32 PyTorch loop; fairseq-train, where `make fairseq-env` has been
run. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pipeline.errors import StudyError

if TYPE_CHECKING:
    from throughput.comparison import Comparison
    from throughput.sides import Tuning

PEERS = ("trainer", "trainer_tuned", "plain_loop", "fairseq")


def machine() -> dict[str, Any]:
    """Return what the numbers hang on: processor, cores, versions."""
    from importlib.metadata import distributions

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    installed = {found.metadata["Name"]: found.version for found in distributions()}
    versions = {name: installed.get(name) for name in ("torch", "transformers", "accelerate")}
    return {"cpu": names[0] if names else None, "cores": os.cpu_count(), **versions}


def chosen_tuning(options: argparse.Namespace, folder: Path) -> Tuning:
    """Return the tuned trainer's settings: those of the last search, or of a new one, whose table is printed."""
    from throughput.search import search
    from throughput.sides import BEST_TUNING

    if options.search is None:
        return BEST_TUNING
    steps = (options.rounds + 1) * options.steps
    job = {"corpus": str(options.corpus), "d_model": options.search, "steps": steps, "scratch": str(folder)}
    print(f"Seq2SeqTrainer at d_model {options.search}, target tokens a second, one choice after the other")
    for choice, rates in search(job, rounds=options.rounds, steps=options.steps, logs=folder):
        lines = [f"{rate:>10,.0f}  {tuning}" for tuning, rate in rates.items()]
        print(choice, *lines, sep="\n", flush=True)
        winner = next(iter(rates))
    return winner


def contract(comparisons: dict[str, Comparison], options: argparse.Namespace) -> dict[str, Any]:
    """Return the record of a run; its keys by size are the d_model."""
    first = next(iter(comparisons.values()))

    def by_side(names: list[str], value: Callable[[Comparison, str], Any]) -> dict[str, dict[str, Any]]:
        return {name: {key: value(comparison, name) for key, comparison in comparisons.items()} for name in names}

    every = [first.ours, *first.peers]
    return {
        "benchmark": Path(__file__).stem,
        "machine": machine(),
        "unit": "target tokens a second",
        "ours": by_side([first.ours], lambda comparison, side: comparison.tokens_per_second(side))[first.ours],
        "peers": by_side(first.peers, lambda comparison, side: comparison.tokens_per_second(side)),
        "ratio": by_side(first.peers, lambda comparison, side: median(comparison.ratios(side))),
        "spread": by_side(first.peers, lambda comparison, side: [f(comparison.ratios(side)) for f in (min, max)]),
        "gemm_flops_per_second": {key: comparison.gemm_flops_per_second() for key, comparison in comparisons.items()},
        "share_of_gemm": by_side(every, lambda comparison, side: comparison.peak_share(side)),
        "peak_bytes": by_side(every, lambda comparison, side: comparison.peak_bytes(side)),
        "equal": first.equal,
        "sides": first.descriptions,
        "rounds": options.rounds,
        "steps": options.steps,
    }


def run(options: argparse.Namespace) -> None:
    """Measure every width, print a table for each and the record."""
    from throughput.measurement import compare
    from throughput.workload import Workload

    fairseq_python = options.fairseq_env / "bin" / "python"
    names = list(dict.fromkeys(options.peers))
    for d_model in options.d_model:  # what is wrong with a size or the corpus is said before anything is measured
        Workload.of({"corpus": str(options.corpus), "d_model": d_model, "steps": 1})
    if "fairseq" in names and not fairseq_python.exists():
        names.remove("fairseq")
        print(f"fairseq: skipped, no environment at {options.fairseq_env}; `make fairseq-env` makes it in minutes")
    comparisons = {}
    with tempfile.TemporaryDirectory() as scratch:
        tuning = chosen_tuning(options, Path(scratch))
        for d_model in dict.fromkeys(options.d_model):
            comparisons[str(d_model)] = comparison = compare(
                options.corpus,
                d_model=d_model,
                names=names,
                tuning=tuning,
                fairseq_python=fairseq_python,
                rounds=options.rounds,
                steps=options.steps,
                folder=Path(scratch, str(d_model)),
            )
            peak = comparison.gemm_flops_per_second()
            print(
                f"d_model {d_model}; bf16 matrix products reach {peak / 1e9:,.0f} GFLOP/s\n{comparison.table()}\n",
                flush=True,
            )
    print(json.dumps(contract(comparisons, options)))


def at_least_one(text: str) -> int:
    """Return an argument as a number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-model", type=at_least_one, nargs="+", default=[64, 128, 256], metavar="D", help="widths")
    parser.add_argument(
        "--rounds", type=at_least_one, default=10, help="turns of every side, after one of warm-up (10)"
    )
    parser.add_argument("--steps", type=at_least_one, default=10, help="updates in a turn (10)")
    parser.add_argument("--corpus", type=Path, default=Path("artifacts/default/corpus"), help="a prepared corpus")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, help="whom to compare with (all)")
    parser.add_argument(
        "--search", type=at_least_one, metavar="D", help="search the tuned trainer's settings at this d_model first"
    )
    parser.add_argument("--fairseq-env", type=Path, default=Path(".venv-fairseq"), help="where fairseq is installed")
    try:
        run(parser.parse_args())
    except StudyError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
