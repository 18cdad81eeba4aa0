"""Finetuning every branch of a pretrained encoder as a classifier, on the share of the budget that pretraining has left.

Source: Liu et al. 2019 (RoBERTa, arXiv 1907.11692), section 5.1: a new head, linear warm-up, then linearly down to 0. Beside
each whole branch the same encoder with random weights is finetuned for as many steps: what pretraining brought.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from pipeline.budget import Budget, Ledger
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.corpora.streams import open_stream
from pipeline.errors import StudyError
from pipeline.expected import SCRATCH
from pipeline.files import atomic_path, read_json, write_json
from pipeline.models.building import build
from pipeline.models.checkpoint import load_dense, read_run, save_dense
from pipeline.models.encoder import classifier_of
from pipeline.size import SizeSpec
from pipeline.training.branches import begin, clear, curve_points
from pipeline.training.devices import micro_batch_tokens, move, training_device
from pipeline.training.loop import Diverged, LoopOptions, train
from pipeline.training.objectives import CrossEntropy
from pipeline.training.parametrization import scale_initial
from pipeline.training.precision import resolve
from pipeline.training.pretraining import Validate, branch_of, calibrated, run_record
from pipeline.training.pricing import step_price, total_costs
from pipeline.training.schedules import warm_and_linear
from pipeline.training.state import TrainState, load_checkpoint

_SEED_OFFSET = 2000  # a head is drawn, and sentences are ordered, by other numbers than pretraining drew
_CURVE_POINTS = 4


@dataclass(frozen=True, kw_only=True)
class Job:
    """One classifier to make: `parent` is the pretrained branch, None for random weights, `budget` what it may have cost in the end."""

    name: str  # of its directory: seconds, seconds-early, seconds-scratch
    match: str
    parent: Path | None
    budget: Budget

    @property
    def recipe(self) -> str:
        """``fp32``, or ``scratch`` without pretraining."""
        return SCRATCH if self.parent is None else "fp32"


def jobs_of(entry: dict[str, Any], pretrained: Path) -> Iterator[Job | str]:
    """Yield what is to be made of a pretrained run; the bare name of a branch that diverged."""
    for match, text in entry["budgets"].items():
        whole = Budget.parse(text)
        for name, budget in ((match, whole), (f"{match}-early", whole.scaled(1 - entry["recovery_fraction"]))):
            parent = branch_of(pretrained, name)
            yield name if parent is None else Job(name=name, match=match, parent=parent, budget=budget)
        if entry["scratch"]:
            yield Job(name=f"{match}-{SCRATCH}", match=match, parent=None, budget=whole)


class _Desk:
    """What all classifiers of one run are made with."""

    def __init__(
        self, entry: dict[str, Any], *, key: str, corpus: PreparedCorpus, work: Path, validate: Validate
    ) -> None:
        self.entry, self.key, self.corpus, self.work, self.validate = entry, key, corpus, work, validate
        self.size = SizeSpec.of_record(entry)
        self.device = training_device()
        self.precision = resolve(entry["precision"], self.device)
        self.price = step_price(
            self.size, vocab_size=corpus.vocab_size, seconds_per_step=calibrated(entry), purpose="finetune"
        )

    def _stream(self) -> Any:
        entry = self.entry
        return open_stream(
            self.corpus.split("train"), batch_tokens=entry["batch_tokens"], seed=entry["seed"] + _SEED_OFFSET
        )

    def _steps(self, job: Job, paid: Ledger) -> int:
        """Return how many steps the budget has left; without pretraining, as many as beside it."""
        if job.parent is None:
            return int(read_json(self.work / f"{job.match}.status.json")["steps"])
        steps = job.budget.steps_within(total_costs(self._stream(), self.price), spent=paid.total)
        if steps < 2:
            raise StudyError(
                f"{self.key}: after pretraining the budget {job.budget} pays for {steps} steps of finetuning; raise it, or "
                "finetune.fraction"
            )
        return steps

    def make(self, job: Job) -> dict[str, Any]:
        """Finetune one classifier and write its directory and curve into the work folder; return its metrics."""
        entry, corpus = self.entry, self.corpus
        run = {} if job.parent is None else read_run(job.parent)
        paid = Ledger.from_dict(run.get("ledger", {}))
        seed = entry["seed"] + _SEED_OFFSET
        steps = self._steps(job, paid)
        shape: dict[str, Any] = {"vocab_size": corpus.vocab_size, "dropout": entry["dropout"], "seed": seed}
        model: Any
        if job.parent is None:
            model = build(self.size, **shape)
            scale_initial(model, base_width=entry["mup_base_width"])
        else:
            model = classifier_of(load_dense(job.parent), self.size, **shape)
        move(model, self.device)
        state = TrainState.start(
            model,
            stream=self._stream(),
            precision=self.precision,
            learning_rate=entry["learning_rate"],
            mup_base_width=entry["mup_base_width"],
            weight_decay=entry["weight_decay"],
            paid=paid,
        )
        checkpoint = self.work / f"{job.name}.pt"
        if checkpoint.exists():
            state.load_state_dict(load_checkpoint(checkpoint)["state"])
        options = LoopOptions(
            objective=CrossEntropy(label_smoothing=entry["label_smoothing"]),
            price=self.price,
            peak_rate=entry["learning_rate"],
            clip_norm=entry["clip_norm"],
            validate=self.validate,
            checkpoint_path=checkpoint,
            checkpoint_seconds=entry["checkpoint_seconds"],
            device=self.device,
            micro_batch_tokens=micro_batch_tokens(),
        )
        schedule = partial(warm_and_linear, warmup_steps=round(entry["warmup_fraction"] * steps), total_steps=steps)
        points = frozenset(steps * (number + 1) // _CURVE_POINTS for number in range(_CURVE_POINTS))
        train(state, options, phase=job.name, until=steps, schedule=schedule, validate_at=points)
        move(model, torch.device("cpu"))
        record = run_record(
            entry,
            vocab_size=corpus.vocab_size,
            match=job.match,
            run_id=f"{self.key}-{job.name}" + ("" if job.parent is None else "-fp32"),
            parent_id=run.get("run_id"),
            config_id=f"{entry['size']}/{job.recipe}",
            budget=str(job.budget),
            method="none",
            recipe=job.recipe,
            ledger=state.ledger.as_dict(),
            steps=steps,
            precision=self.precision,
        )
        save_dense(model, self.work / job.name, tokenizer=corpus.tokenizer(), run=record, corpus=corpus.card)
        curve = curve_points(state, job.name)
        write_json(self.work / f"{job.name}.curve.json", curve)
        return {
            "status": "ok",
            "steps": steps,
            "valid_loss": curve[-1]["valid_loss"],
            "train_loss": curve[-1]["train_loss"],
        }


def finetune(
    entry: dict[str, Any],
    *,
    key: str,
    pretrained: Path,
    corpus: PreparedCorpus,
    out: Path,
    work: Path,
    validate: Validate,
) -> str:
    """Make a classifier of every branch of the run at `pretrained` and write `out`; return a one-line summary.

    `out` gets a model directory each (``seconds``, ``seconds-early``, ``seconds-scratch``, ...), curve.csv and metrics.json,
    which has beside each classifier's validation loss that of the masked LM it began as. One that diverged has no
    directory. A killed run goes on from `work`. StudyError when the budget has too little left.
    """
    begin(work, out=out)
    desk = _Desk(entry, key=key, corpus=corpus, work=work, validate=validate)
    before = read_json(pretrained / "metrics.json")
    metrics: dict[str, Any] = {}
    for job in jobs_of(entry, pretrained):
        name = job if isinstance(job, str) else job.name
        status = work / f"{name}.status.json"
        if not status.exists():
            write_json(status, _made(desk, job))
            (work / f"{name}.pt").unlink(
                missing_ok=True
            )  # not before: a kill in between would cost the whole classifier
        metrics[name] = read_json(status) | {"pretrain_valid_loss": before.get(name, {}).get("valid_loss")}
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        points: list[dict[str, Any]] = []
        for name, record in metrics.items():
            if record["status"] == "ok":
                points += read_json(work / f"{name}.curve.json")
                shutil.copytree(work / name, temporary / name)
        pd.DataFrame(points).to_csv(temporary / "curve.csv", index=False, lineterminator="\n")
        write_json(temporary / "metrics.json", metrics)
    clear(work)
    shown = ", ".join(
        f"{name} {record['valid_loss']:.3f}" for name, record in metrics.items() if record["status"] == "ok"
    )
    return f"{key}: validation loss {shown or 'nowhere: all diverged'}"


def _made(desk: _Desk, job: Job | str) -> dict[str, Any]:
    lost = {"status": "diverged", "steps": None, "valid_loss": None, "train_loss": None}
    if isinstance(job, str):
        return lost
    if job.parent is None and read_json(desk.work / f"{job.match}.status.json")["status"] != "ok":
        return lost  # there is nothing to stand beside
    try:
        return desk.make(job)
    except Diverged as fault:
        print(f"{desk.key} {job.name}: {fault}; the row is marked diverged and the study goes on")
        return lost
