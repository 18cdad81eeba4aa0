"""How much sooner is a graph done by `tlc reproduce` than by `dvc repro`, and what does a stage cost beside its command?

    python benchmarks/makespan.py

The smoke study is run from corpus to page, one stage after the other and side by side, each in a fresh folder with an empty
cache; then a generated graph of trivial stages, layer upon layer, each of which needs two of the layer below. Both sides get the
same environment, one thread a process. Besides seconds it is counted in how many entries the two dvc.lock differ (of the smoke
study, those of timings and the report that prints them). Results go to benchmarks/results/makespan.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from pipeline.evaluation.step_seconds import ENVIRONMENT as STUDY_ENVIRONMENT
from pipeline.files import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "makespan.json"
LAYER = 30
"""How many trivial stages could run at once."""

ENVIRONMENT = STUDY_ENVIRONMENT | {"PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"}


def call(folder: Path, *command: str) -> float:
    """Run a command with the environment's programs and return its seconds; its output is the error when it fails."""
    variables = os.environ | ENVIRONMENT | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        )
    return time.perf_counter() - begun


def new_project(folder: Path) -> None:
    """Make a DVC project with this one's settings, without git."""
    call(folder, "dvc", "init", "-q", "--no-scm")
    settings = (ROOT / ".dvc" / "config").read_text(encoding="utf-8")
    (folder / ".dvc" / "config.local").write_text(settings, encoding="utf-8")


def smoke_study(folder: Path) -> None:
    """Make a fresh project with the smoke study, as `make smoke` does."""
    for name in ("pipeline", "stages", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    new_project(folder)
    call(folder, "tlc", "plan", "--study", "configs/smoke.yaml", "--write")


def trivial_graph(folder: Path, count: int) -> None:
    """Make a fresh project of `count` stages that write a line each."""
    new_project(folder)
    stages: dict[str, Any] = {}
    for number in range(count):
        below, place = number - number % LAYER - LAYER, number % LAYER
        deps = [f"out/{below + other % LAYER}" for other in (place, place + 1)] if number >= LAYER else []
        command = (
            f"cat {' '.join(deps)} > /dev/null; echo {number} > out/{number}"
            if deps
            else f"echo {number} > out/{number}"
        )
        stages[f"s{number}"] = {"cmd": command, "deps": deps, "outs": [f"out/{number}"]}
    (folder / "out").mkdir()
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False), encoding="utf-8")


def entries(folder: Path) -> dict[str, Any]:
    """Return the entries of a project's dvc.lock."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    stages: dict[str, Any] = yaml.load((folder / "dvc.lock").read_text(encoding="utf-8"), Loader=loader)["stages"]
    return stages


def compare(make: Callable[[Path], None], targets: list[str], jobs: int) -> dict[str, Any]:
    """Run one graph both ways, each in a folder of its own, and return seconds, stages and what differs."""
    seconds: dict[str, float] = {}
    locks: dict[str, dict[str, Any]] = {}
    sides = {
        "tlc reproduce": ["tlc", "reproduce", *targets, "--jobs", str(jobs)],
        "dvc repro": ["dvc", "repro", "-q", *targets],
    }
    for side, command in sides.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            make(folder)
            seconds[side] = call(folder, *command)
            locks[side] = entries(folder)
        print(f"{side:14} {len(locks[side])} stages in {seconds[side]:,.1f} s", flush=True)
    ours, theirs = locks.values()
    differ = sorted({name.split("@")[0] for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)})
    return {"jobs": jobs, "stages": len(ours), "seconds": seconds, "lock_entries_that_differ": differ}


def main() -> None:
    """Measure, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["smoke", "trivial"], help="Measure one of the two alone.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="CPUs for the smoke study.")
    parser.add_argument("--stages", type=int, default=300, help="How many trivial stages.")
    parser.add_argument("--trivial-jobs", type=int, default=8)
    options = parser.parse_args()
    measured: dict[str, dict[str, Any]] = {}
    if options.only != "trivial":
        measured["smoke"] = compare(smoke_study, ["report@smoke"], options.jobs)
    if options.only != "smoke":
        graph = compare(lambda folder: trivial_graph(folder, options.stages), [], options.trivial_jobs)
        graph["seconds_a_stage"] = {side: value / graph["stages"] for side, value in graph["seconds"].items()}
        measured["trivial"] = graph
    ours, peer = "tlc reproduce", "dvc repro"
    record = {
        "benchmark": Path(__file__).stem,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "ray": version("ray"),
            "dvc": version("dvc"),
        },
        "unit": "graphs a second",
        "ours": {name: 1 / graph["seconds"][ours] for name, graph in measured.items()},
        "peers": {peer: {name: 1 / graph["seconds"][peer] for name, graph in measured.items()}},
        "ratio": {peer: {name: graph["seconds"][peer] / graph["seconds"][ours] for name, graph in measured.items()}},
        "measured": measured,
        "equal": "the same graph, environment and empty cache; starting Ray and DVC is counted",
    }
    if options.only is None and options.stages == parser.get_default("stages"):
        write_json(RESULTS, record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
