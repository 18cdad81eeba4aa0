"""Learning rates across sizes: tuned at each width, and transferred by muP from one.

    python benchmarks/learning_rates.py --study default --width 32 64 128 --rate 0.004 0.008 --rule tuned --seconds 60

Every run is a whole pretraining of the study's size to a budget in calibrated seconds, on the study's corpus, one thread
a process. Results are added to benchmarks/results/learning_rates.csv; a run that is there is not made again. The best
rate at a width is marked when it lies at the edge of those tried.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.calibration import Calibration
from pipeline.errors import StudyError
from pipeline.expansion import expand
from pipeline.files import atomic_path, read_json
from pipeline.progress import progress
from pipeline.study import load_study

RESULTS = Path("benchmarks/results/learning_rates.csv")
IDENTITY = ["study", "rule", "size", "learning_rate", "dropout", "batch_tokens", "budget", "seed"]


def calibrated(entry: dict[str, Any]) -> float:
    """Return an entry's seconds a step; StudyError when there is none."""
    if entry["seconds_per_step"] is None:
        raise StudyError(f"size {entry['size']} is not calibrated; run `tlc calibrate --study {entry['study']}`")
    return float(entry["seconds_per_step"])


def train_once(entry: dict[str, Any], corpus_path: str) -> dict[str, Any]:
    """Pretrain one entry in a temporary folder; return its final validation loss (null when it diverged) and steps."""
    import torch

    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.evaluation.losses import validation_loss
    from pipeline.training.pretraining import pretrain

    torch.set_num_threads(1)
    corpus = PreparedCorpus.open_task(Path(corpus_path), entry["task"])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        pretrain(
            entry, key="sweep", corpus=corpus, out=out, work=Path(folder) / "work", validate=validation_loss(corpus)
        )
        metrics = read_json(out / "metrics.json")["seconds"]
    return {"valid_loss": metrics.get("valid_loss"), "steps": metrics["steps"]}


def runs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the entries of the sweep: the study's own, with rate, rule, budget and what else was asked for changed."""
    entries = expand(load_study(f"configs/{options.study}.yaml"), Calibration.load(options.study))["pretrain"]
    chosen = []
    for width in options.width:
        same = [e for e in entries.values() if e["d_model"] == width and e["num_layers"] == options.layers]
        if not same:
            raise StudyError(f"study {options.study} has no size of width {width} with {options.layers} layers")
        entry = same[0] | {"seconds_per_step": calibrated(same[0])}
        for rate in options.rate:
            for seed in range(options.seeds):
                changes = {
                    "learning_rate": rate,
                    "mup_base_width": options.base if options.rule == "mup" else None,
                    "seed": seed,
                    "budgets": {"seconds": f"{options.seconds:g} s"},
                    "recovery_fraction": 0.0,
                    "validate_points": 1,
                }
                if options.dropout is not None:
                    changes["dropout"] = options.dropout
                if options.batch_tokens is not None:
                    scale = options.batch_tokens / entry["batch_tokens"]
                    changes |= {
                        "batch_tokens": options.batch_tokens,
                        "seconds_per_step": entry["seconds_per_step"] * scale,
                    }
                chosen.append(entry | changes)
    return chosen


def identity(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the columns that tell a run from the others."""
    rule = "tuned" if entry["mup_base_width"] is None else f"mup from {entry['mup_base_width']}"
    row = {name: entry[name] for name in IDENTITY if name in entry}
    return row | {"rule": rule, "budget": entry["budgets"]["seconds"]}


def table(path: Path) -> pd.DataFrame:
    """Return what has been measured so far."""
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=[*IDENTITY, "steps", "valid_loss"])


def print_best(rows: pd.DataFrame) -> None:
    """Print the mean loss by rule, size and rate; the best rate of each is marked, and flagged at an edge."""
    groups = [name for name in IDENTITY if name not in ("learning_rate", "seed")]
    means = rows.groupby([*groups, "learning_rate"], dropna=False)["valid_loss"].mean().reset_index()
    for key, group in means.groupby(groups, dropna=False):
        ordered = group.sort_values("learning_rate").reset_index(drop=True)
        if ordered["valid_loss"].isna().all():
            print(f"{' '.join(map(str, key))}: no run ended with a finite loss")
            continue
        best = ordered["valid_loss"].idxmin()
        edge = " (at the edge of the rates tried)" if best in (0, len(ordered) - 1) else ""
        shown = ", ".join(f"{r.learning_rate:g}: {r.valid_loss:.3f}" for r in ordered.itertuples())
        print(f"{' '.join(map(str, key))}: {shown}; best {ordered['learning_rate'][best]:g}{edge}")


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="default")
    parser.add_argument("--width", type=int, nargs="*", default=[])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rate", type=float, nargs="*", default=[])
    parser.add_argument("--rule", choices=["tuned", "mup"], default="tuned")
    parser.add_argument("--base", type=int, default=64, help="the width that muP transfers from")
    parser.add_argument("--seconds", type=float, default=60.0, help="device seconds a run, as calibrated")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--dropout", type=float)
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--corpus", help="a prepared corpus; the study's by default")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    done = {tuple(row) for row in table(options.results)[IDENTITY].itertuples(index=False)}
    missing = [entry for entry in runs(options) if tuple(identity(entry)[name] for name in IDENTITY) not in done]
    corpus = options.corpus or f"artifacts/{options.study}/corpus"
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(train_once, entry, corpus): entry for entry in missing}
        for future in progress(as_completed(pending), desc="runs", unit="run", total=len(pending)):
            row = identity(pending[future]) | future.result()
            options.results.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(options.results) as temporary:
                rows = pd.concat([table(options.results), pd.DataFrame([row])]).sort_values(IDENTITY)
                rows.to_csv(temporary, index=False, lineterminator="\n")
    print_best(table(options.results))


if __name__ == "__main__":
    try:
        main()
    except StudyError as error:
        sys.exit(f"error: {error}")
