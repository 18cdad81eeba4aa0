"""Learning rates of finetuning: a pretrained encoder of a study finetuned at each of several rates.

    python benchmarks/finetuning_rates.py --study mlm --size w64x2 --rate 0.001 0.002 0.004 0.008

Every run is the study's own finetune stage on its own artifacts (artifacts/<study>/pretrain), with another rate; beside it
stands the same encoder without pretraining. Losses and accuracies are of the validation sentences. Results are added to
benchmarks/results/finetuning_rates.csv; what is there is not made again. The best rate is marked when it lies at the edge.
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

RESULTS = Path("benchmarks/results/finetuning_rates.csv")
IDENTITY = ["study", "run", "learning_rate", "dropout", "label_smoothing", "model"]


def finetune_once(entry: dict[str, Any], artifacts: str) -> list[dict[str, Any]]:
    """Finetune one run in a temporary folder; return a row for the whole pretrained branch and one without pretraining."""
    import torch

    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.evaluation.classification import class_logits, predicted
    from pipeline.evaluation.losses import validation_loss
    from pipeline.models.checkpoint import load_dense
    from pipeline.training.finetuning import finetune

    torch.set_num_threads(1)
    corpus = PreparedCorpus.open_task(Path(artifacts) / "corpus", "classification")
    split, rows = corpus.sentences("valid"), []
    with tempfile.TemporaryDirectory() as folder:
        out, work = Path(folder) / "run", Path(folder) / "work"
        pretrained = Path(artifacts) / "pretrain" / entry["run"]
        finetune(
            entry,
            key=entry["run"],
            pretrained=pretrained,
            corpus=corpus,
            out=out,
            work=work,
            validate=validation_loss(corpus),
        )
        for name, record in read_json(out / "metrics.json").items():
            if name in ("seconds", "seconds-scratch") and record["status"] == "ok":
                correct = predicted(class_logits(load_dense(out / name), split)) == split.labels
                facts = {column: entry[column] for column in IDENTITY if column in entry}
                found = {"steps": record["steps"], "valid_loss": record["valid_loss"]}
                rows.append(facts | {"model": name} | found | {"valid_accuracy": 100 * float(correct.mean())})
    return rows


def table(path: Path) -> pd.DataFrame:
    """Return what has been measured so far."""
    columns = [*IDENTITY, "steps", "valid_loss", "valid_accuracy"]
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)


def print_best(rows: pd.DataFrame) -> None:
    """Print loss and accuracy by run, model and rate; the best rate is flagged at an edge."""
    for key, group in rows.groupby(["study", "run", "model", "dropout", "label_smoothing"]):
        ordered = group.sort_values("learning_rate").reset_index(drop=True)
        best = int(ordered["valid_loss"].idxmin())
        edge = " (at the edge of the rates tried)" if best in (0, len(ordered) - 1) else ""
        shown = ", ".join(
            f"{r.learning_rate:g}: {r.valid_loss:.3f} {r.valid_accuracy:.1f} %" for r in ordered.itertuples()
        )
        print(f"{' '.join(map(str, key))}: {shown}; best {ordered['learning_rate'][best]:g}{edge}")


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="mlm")
    parser.add_argument("--size", nargs="*", default=[], help="size keys, such as w64x2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, nargs="*", default=[], help="at the size itself, not at muP's base width")
    parser.add_argument("--dropout", type=float)
    parser.add_argument("--artifacts", help="artifacts/<study> by default")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    entries = expand(load_study(f"configs/{options.study}.yaml"), Calibration.load(options.study))["finetune"]
    keys = [f"{options.study}-{size}-s{options.seed}" for size in options.size]
    for key in keys:
        if key not in entries:
            raise StudyError(f"study {options.study} has no run {key}; its runs are in params.yaml")
    changed = {} if options.dropout is None else {"dropout": options.dropout}
    wanted = [entries[key] | {"learning_rate": rate} | changed for key in keys for rate in options.rate]
    same = [name for name in IDENTITY if name != "model"]
    done = {tuple(row) for row in table(options.results)[same].itertuples(index=False)}
    missing = [entry for entry in wanted if tuple(entry[name] for name in same) not in done]
    artifacts = options.artifacts or f"artifacts/{options.study}"
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        pending = [pool.submit(finetune_once, entry, artifacts) for entry in missing]
        for future in progress(as_completed(pending), desc="runs", unit="run", total=len(pending)):
            options.results.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(options.results) as temporary:
                rows = pd.concat([table(options.results), pd.DataFrame(future.result())]).sort_values(IDENTITY)
                rows.to_csv(temporary, index=False, lineterminator="\n")
    print_best(table(options.results))


if __name__ == "__main__":
    try:
        main()
    except StudyError as error:
        sys.exit(f"error: {error}")
