"""Artifacts of a masked-LM study without one: pretraining losses, classifiers whose losses follow from them, sentences to match."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.analysis.table import assemble
from pipeline.corpora.encoder_splits import write_labelled_split
from pipeline.corpora.token_array import TokenArray
from pipeline.expected import SCRATCH, models_of_run
from pipeline.run_id import parse_run_id
from tests.analysis.synthetic import BUDGETS, DAMAGE, SPEED, report_entry, row_of, shape, write_curve, write_json
from tests.analysis.synthetic_engines import engine_records

PRETRAINED = {
    "seconds": {"w32x2": 5.3, "w64x2": 4.6, "w128x2": 4.3, "w128x4": 4.4},
    "flops": {"w32x2": 5.1, "w64x2": 4.5, "w128x2": 4.55, "w128x4": 4.8},
}
"""Validation loss of the encoders on masked tokens."""
EARLY = 0.15
"""What an encoder that stopped early loses in that."""
SENTENCES = 400
ENGINES = ("onnxruntime-float32", "onnxruntime-int8", "torch")
RECIPES = ("q8", "q4", "q3", "p50", "p90", "early", "early4", "early3")
FLIPPED = {"onnxruntime-float32": 0, "onnxruntime-int8": 3, "torch": 0}
"""{engine: how many of its predicted classes are not the weights'}."""


def classification_entry(**changes: Any) -> dict[str, Any]:
    """Return the report entry of the synthetic masked-LM study; changes as of `report_entry`."""
    usual = {
        "sizes": ["w32x2", "w64x2", "w128x2", "w128x4"],
        "recipes": RECIPES,
        "students": [],
        "plain_of_student": {},
    }
    return report_entry(**(usual | changes)) | {
        "task": "classification",
        "quality_name": "accuracy",
        "trained_in": "finetune",
        "scratch": True,
        "finetune_fraction": 0.15,
    }


def pretraining_loss(match: str, size: str, *, early: bool) -> float:
    return PRETRAINED[match][size] + (EARLY if early else 0.0)


def expected_loss(match: str, size: str, recipe: str) -> float:
    """Return the loss a sentence: from the pretraining loss alone, whatever the size, and a little from what was compressed."""
    if recipe == SCRATCH:
        return 0.66
    early = recipe.startswith("early")
    added = 0.0 if recipe == "early" else (DAMAGE[recipe] - (DAMAGE["early"] if early else 0.0))
    return 0.1 * pretraining_loss(match, size, early=early) + 0.2 * added * (64 / shape(size).d_model) ** 0.3


def classifier_row(run_id: str, loss: float) -> dict[str, Any]:
    """Return a classifier's row as the evaluate stage writes it, but for its quality."""
    row = row_of(run_id, loss)
    seconds = 299.0 if row["match"] == "seconds" else 1.49e13 / (SPEED[row["size"]] * 1e9)
    row |= {"task": "classification", "finetune_seconds": row["finetune_seconds"] + 0.15 * seconds}
    row["train_seconds"] = 0.0 if row["recipe"] == SCRATCH else row["total_seconds"] - row["finetune_seconds"]
    row["total_seconds"] = row["train_seconds"] + row["finetune_seconds"]
    for purpose in ("train", "finetune", "total"):
        row[f"{purpose}_flops"] = row[f"{purpose}_seconds"] * SPEED[row["size"]] * 1e9
    row["tokens_per_param"] = row["total_seconds"] * 20_000 / row["params_non_embedding"]
    if row["recipe"] == SCRATCH:
        row["parent_id"] = None
    return row


def answers(
    loss: float, difficulty: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return negative log-likelihoods (n,) whose mean is near `loss`, and which classes are right (n,)."""
    margins = 3.2 * (1.0 - loss) - 1.0 + difficulty + rng.normal(0, 0.05, size=len(difficulty))
    return np.log1p(np.exp(-margins)), margins > 0


def write_corpus(folder: Path, rng: np.random.Generator) -> NDArray[np.int64]:
    """Write the labelled half of a prepared corpus, and return the test sentences' labels (n,)."""
    sentences = folder / "corpus" / "sentences"
    sentences.mkdir(parents=True)
    labels = rng.integers(0, 2, size=SENTENCES)
    components = np.sort(rng.integers(0, SENTENCES * 3 // 4, size=SENTENCES))
    tokens = TokenArray(np.full(3 * SENTENCES, 7, dtype=np.uint16), np.arange(0, 3 * SENTENCES + 1, 3))
    lines = [f"sentence {number}" for number in range(SENTENCES)]
    write_labelled_split(sentences, "test", lines=lines, sentences=tokens, labels=labels, components=components)
    files = {path.name: {"bytes": path.stat().st_size} for path in sorted(sentences.iterdir())}
    card = {"kind": "sentences", "classes": 2, "tokenizer": {"vocab_size": 4000}, "files": files}
    write_json(sentences / "card.json", card)
    owned = {"license": "for the test alone", "credit": "Reviewers of made-up films."}
    write_json(
        folder / "corpus" / "card.json", {"kind": "encoder", "tokenizer": {"vocab_size": 4000}, "files": {}} | owned
    )
    return labels


def write_predictions(
    folder: Path, frame: pd.DataFrame, predicted: dict[str, NDArray[Any]], labels: NDArray[Any]
) -> None:
    """Write what the engines and time stages write, ONNX Runtime's and PyTorch's."""

    def deployed(row: dict[str, Any]) -> str:
        return "onnxruntime-float32" if pd.isna(row["bits"]) else "onnxruntime-int8"

    records, latencies = engine_records(frame, everywhere=("fp32", "q8"), compared=ENGINES, deployed=deployed)
    for record in records:
        classes = predicted[record["run_id"]].copy()
        flipped = FLIPPED[record["engine"]]
        classes[:flipped] = 1 - classes[:flipped]
        path = folder / "engines" / f"{record['run_id']}.{record['engine']}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in classes), encoding="utf-8")
        record |= {"quality": 100 * float((classes == labels).mean()), "chrf": None, "signature": "accuracy"}
    write_json(folder / "engines" / "engines.json", records)
    write_json(folder / "time" / "latencies.json", latencies)


def write_study(root: Path, entry: dict[str, Any], *, seed_noise: float = 0.004) -> Path:
    """Write artifacts/<study> under `root` for a classification entry and return it; the same arguments give the same files."""
    rng = np.random.default_rng(0)
    folder = root / "artifacts" / entry["study"]
    labels = write_corpus(folder, rng)
    difficulty = rng.normal(0, 1.2, size=SENTENCES)
    everything: list[dict[str, Any]] = []
    predicted: dict[str, NDArray[Any]] = {}
    for key in entry["runs"]:
        shared = rng.normal(0, seed_noise)
        rows, arrays = [], {}
        for run_id in (model.run_id for model in models_of_run(entry, key)):
            identity = parse_run_id(run_id)
            loss = expected_loss(identity["match"], identity["size"], identity["recipe"]) + shared
            loss += rng.normal(0, seed_noise / 5)
            row = classifier_row(run_id, loss)
            for split in ("valid", "test"):
                nll, correct = answers(loss, difficulty, rng)
                row[f"{split}_loss"] = float(nll.mean())
                arrays |= {f"{run_id}/{split}_nll": nll, f"{run_id}/{split}_tokens": np.ones(SENTENCES)}
            arrays[f"{run_id}/test_correct"] = correct
            quality = 100 * float(correct.mean())
            row |= {"quality": quality, "quality_low": quality - 4, "quality_high": quality + 4}
            row["signature"] = f"accuracy|n:{SENTENCES}|boot:1000|seed:0"
            predicted[run_id] = np.where(correct, labels, 1 - labels)
            rows.append(row)
        write_json(folder / "evaluate" / key / "rows.json", rows)
        np.savez(folder / "evaluate" / key / "sentences.npz", **arrays)
        everything += rows
        write_curve(folder, key, ends=PRETRAINED)
        size = parse_run_id(f"{key}-seconds-fp32")["size"]
        branches = {
            f"{match}{suffix}": {"pretrain_valid_loss": pretraining_loss(match, size, early=bool(suffix)) + shared}
            for match in BUDGETS
            for suffix in ("", "-early")
        }
        branches |= {f"{match}-{SCRATCH}": {"pretrain_valid_loss": None} for match in BUDGETS}
        told = {"status": "ok", "steps": 100, "valid_loss": 0.5, "train_loss": 0.5}
        write_json(folder / "finetune" / key / "metrics.json", {name: told | facts for name, facts in branches.items()})
    write_predictions(folder, assemble(entry, everything, {}, {}), predicted, labels)
    return folder
