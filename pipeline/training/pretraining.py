"""Pretraining one size to its budgets, from an entry of params.yaml to model directories."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.budget import Budget, Cost, Ledger
from pipeline.corpora.batches import BatchStream
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.corpora.streams import open_stream
from pipeline.errors import StudyError
from pipeline.files import atomic_path, read_json, write_json
from pipeline.models.building import build
from pipeline.models.checkpoint import save_dense
from pipeline.size import SizeSpec
from pipeline.training.branches import TRUNK, Branch, Schedule, begin, clear, curve_points, run_branches
from pipeline.training.devices import micro_batch_tokens, move, training_device
from pipeline.training.loop import LoopOptions
from pipeline.training.objectives import CrossEntropy
from pipeline.training.parallel import leads, wait
from pipeline.training.parametrization import scale_initial
from pipeline.training.precision import resolve
from pipeline.training.pricing import step_price, total_costs
from pipeline.training.state import TrainState

Validate = Callable[[Any], float]
"""A model's mean validation loss a target token, without label smoothing."""


def calibrated(entry: dict[str, Any]) -> float:
    """Return the entry's seconds a step; StudyError when its size was never calibrated."""
    seconds = entry["seconds_per_step"]
    if seconds is None:
        raise StudyError(
            f"size {entry['size']} of study {entry['study']} is not calibrated; run `python -m stages.calibrate --study "
            f"{entry['study']}`, then `tlc plan --write`"
        )
    return float(seconds)


def run_record(entry: dict[str, Any], *, vocab_size: int, match: str, **fields: Any) -> dict[str, Any]:
    """Return the part of run.json that every kind of model shares; `fields` complete or change it."""
    shape = SizeSpec.of_record(entry).record() | {"vocab_size": vocab_size}
    record = {
        "study": entry["study"],
        "task": entry["task"],
        "size": shape,
        "size_key": entry["size"],
        "seed": entry["seed"],
        "match": match,
        "parent_id": None,
        "bits": None,
        "sparsity": None,
        "status": "ok",
        "entry": entry,
    }
    return record | fields


def pretrain(
    entry: dict[str, Any], *, key: str, corpus: PreparedCorpus, out: Path, work: Path, validate: Validate
) -> str:
    """Train the trunk and every branch of one run and write `out`; return a one-line summary.

    `out` gets a model directory a branch (``seconds``, ``seconds-early``, ...), curve.csv and metrics.json. A branch
    that diverged has no directory, and metrics.json says so. Under torchrun all processes call this within
    `parallel.joined`; the first one writes, and the others return an empty line.
    """
    size = SizeSpec.of_record(entry)
    device = training_device()
    price = step_price(size, vocab_size=corpus.vocab_size, seconds_per_step=calibrated(entry))

    def stream() -> BatchStream:
        return open_stream(corpus.split("train"), batch_tokens=entry["batch_tokens"], seed=entry["seed"])

    budgets: dict[str, Budget] = {}
    reserved = entry.get("finetune_fraction", 0.0)  # for what comes after pretraining
    for match, text in entry["budgets"].items():
        budgets[match] = Budget.parse(text).scaled(1 - reserved)
        budgets[f"{match}-early"] = Budget.parse(text).scaled(1 - reserved - entry["recovery_fraction"])
    branches = []
    for name, budget in budgets.items():
        steps = budget.steps_within(total_costs(stream(), price))
        if steps < 2:
            raise StudyError(f"{key}: the budget {budget} pays for {steps} steps of size {entry['size']}; raise it")
        branches.append(Branch(name=name, total_steps=steps))

    model = build(size, vocab_size=corpus.vocab_size, dropout=entry["dropout"], seed=entry["seed"])
    scale_initial(model, base_width=entry["mup_base_width"])
    move(model, device)
    precision = resolve(entry["precision"], device)
    state = TrainState.start(
        model,
        stream=stream(),
        precision=precision,
        learning_rate=entry["learning_rate"],
        mup_base_width=entry["mup_base_width"],
        weight_decay=entry["weight_decay"],
        paid=Ledger(),
    )
    options = LoopOptions(
        objective=CrossEntropy(label_smoothing=entry["label_smoothing"]),
        price=price,
        peak_rate=entry["learning_rate"],
        clip_norm=entry["clip_norm"],
        validate=validate,
        checkpoint_path=work / "progress.pt",
        checkpoint_seconds=entry["checkpoint_seconds"],
        device=device,
        micro_batch_tokens=micro_batch_tokens(),
    )
    tokenizer = corpus.tokenizer()

    recipe = (
        "pretrained" if entry["task"] == "masked_lm" else "fp32"
    )  # what is finetuned from it is the study's fp32 model

    def finish(branch: Branch, at_end: TrainState) -> None:
        match = branch.name.removesuffix("-early")
        record = run_record(
            entry,
            vocab_size=corpus.vocab_size,
            match=match,
            run_id=f"{key}-{branch.name}-{recipe}",
            config_id=f"{entry['size']}/{recipe}",
            budget=str(budgets[branch.name]),
            method="none",
            recipe=recipe,
            ledger=at_end.ledger.as_dict(),
            steps=at_end.step,
            precision=precision,
        )
        save_dense(at_end.model, work / branch.name, tokenizer=tokenizer, run=record, corpus=corpus.card)
        points = curve_points(at_end, TRUNK) + curve_points(at_end, branch.name)
        write_json(work / f"{branch.name}.curve.json", points)

    schedule = Schedule(
        warmup_steps=entry["warmup_steps"],
        decay_fraction=entry["decay_fraction"],
        validate_points=entry["validate_points"],
    )
    begin(work, out=out)
    statuses = run_branches(state, options, branches=branches, schedule=schedule, work=work, finish=finish)
    summary = _collect(key, out=out, work=work, branches=branches, statuses=statuses) if leads() else ""
    wait()
    return summary


def _collect(key: str, *, out: Path, work: Path, branches: list[Branch], statuses: dict[str, str]) -> str:
    """Move the finished branches to `out`, with the curve and the metrics, and drop the work folder."""
    points: dict[tuple[str, int], dict[str, Any]] = {}
    metrics: dict[str, Any] = {}
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        for branch in branches:
            metrics[branch.name] = {"status": statuses[branch.name], "steps": branch.total_steps}
            if statuses[branch.name] != "ok":
                continue
            curve = read_json(work / f"{branch.name}.curve.json")
            points |= {(point["phase"], point["step"]): point for point in curve}
            metrics[branch.name] |= {"valid_loss": curve[-1]["valid_loss"], "train_loss": curve[-1]["train_loss"]}
            shutil.copytree(work / branch.name, temporary / branch.name)
        ordered = [points[place] for place in sorted(points, key=lambda place: (place[0] != TRUNK, place))]
        pd.DataFrame(ordered).to_csv(temporary / "curve.csv", index=False, lineterminator="\n")
        write_json(temporary / "metrics.json", metrics)
    clear(work)
    shown = ", ".join(f"{name} {record.get('valid_loss', float('nan')):.3f}" for name, record in metrics.items())
    return f"{key}: validation loss {shown}"


def branch_of(parent: Path, name: str) -> Path | None:
    """Return a pretrained branch's model directory, None when metrics.json says that it diverged.

    StudyError when the run is not there, or lacks a branch that it says it has.
    """
    status = read_json(parent / "metrics.json").get(name, {}).get("status")
    if status == "diverged":
        return None
    if status != "ok" or not (parent / name).is_dir():
        raise StudyError(f"{parent / name}: no such branch; run pretrain again for {parent.name}")
    return parent / name


def spent(record: dict[str, Any]) -> Cost:
    """Return what a run.json's ledger says was spent in all."""
    return sum((Cost(**cost) for cost in record["ledger"].values()), Cost())
