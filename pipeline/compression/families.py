"""A family of recipes made of one run: every sequence of steps once, charged, resumable, and written whole or not at all."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.budget import Budget, Ledger
from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.encoding_facts import encoding_facts
from pipeline.compression.formats import save_compressed
from pipeline.compression.pruning import compressible
from pipeline.compression.registry import METHODS
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.files import atomic_path, read_json, write_json
from pipeline.models.checkpoint import load_dense, model_directory, read_run
from pipeline.progress import progress
from pipeline.recipes import Step, check_order, method_of, trains
from pipeline.size import SizeSpec
from pipeline.training.branches import begin, clear
from pipeline.training.devices import training_device
from pipeline.training.loop import Diverged
from pipeline.training.precision import resolve
from pipeline.training.pretraining import Validate, branch_of, run_record

_STEPS: TypeAdapter[list[Any]] = TypeAdapter(list[Step])


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One recipe of an entry: where it starts, and its steps."""

    name: str
    branch: str  # full | early
    steps: list[Any]

    def prefix(self, length: int) -> str:
        """Return a name for the first `length` steps from this branch: equal for recipes that share them, budget and all."""
        steps = [step.model_dump() | {"share": self.share(number)} for number, step in enumerate(self.steps[:length])]
        return hashlib.sha256(json.dumps([self.branch, steps]).encode()).hexdigest()[:16]

    def share(self, number: int) -> float:
        """Return which part of the recovery budget the step `number` (from 0) may spend: its own, or an equal part of the rest."""
        step = self.steps[number]
        if not trains(step):
            return 0.0
        if step.share is not None:
            return float(step.share)
        training = [other for other in self.steps if trains(other)]
        given = sum(other.share for other in training if other.share is not None)
        return float((1 - given) / sum(other.share is None for other in training))


@dataclass(kw_only=True)
class Workshop:
    """What a family is made from, and what of it is made and may be needed again."""

    entry: dict[str, Any]
    key: str
    parent: Path
    corpus: PreparedCorpus
    work: Path
    validate: Validate
    made: dict[tuple[str, str], Candidate | None] = field(default_factory=dict)  # by match and prefix; None: diverged

    def source(self, match: str, recipe: Recipe) -> Path | None:
        """Return the parent's model directory; None when it diverged."""
        return branch_of(self.parent, match if recipe.branch == "full" else f"{match}-early")

    def untouched(self, source: Path) -> Candidate:
        """Return the parent as a candidate; StudyError when it is of another size than the entry says."""
        run, size = read_run(source), SizeSpec.of_record(self.entry)
        found = SizeSpec.of_record(run["size"])
        if found != size:
            raise StudyError(
                f"{source}: a checkpoint of another architecture, {found.key} where {self.key} is made of "
                f"{size.key}; run the stage that writes it again"
            )
        return Candidate(
            model=load_dense(source), size=size, trained_size=size, ledger=Ledger.from_dict(run["ledger"]), run=run
        )

    def names(self, match: str, recipe: Recipe) -> dict[str, Any]:
        """Return what run.json calls the model that a recipe makes."""
        entry, method = self.entry, method_of(recipe.steps)
        teaching = entry.get("teaching")
        label = f"{entry['size']}-{teaching}" if teaching else entry["size"]
        return {
            "run_id": f"{entry['run']}-{match}-{recipe.name}",
            "config_id": f"{label}/{recipe.name}",
            "budget": entry["budgets"][match],
            "method": f"distill+{method}" if teaching else method,
            "recipe": recipe.name,
        }

    def candidate(self, match: str, recipe: Recipe, length: int) -> Candidate | None:
        """Return what the first `length` steps make; None when the parent or a training diverged."""
        place = match, recipe.prefix(length)
        if place not in self.made:
            self.made[place] = self._make(match, recipe, length)
        return self.made[place]

    def _make(self, match: str, recipe: Recipe, length: int) -> Candidate | None:
        source = self.source(match, recipe)
        if source is None:
            return None
        if length == 0:
            return self.untouched(source)
        before = self.candidate(match, recipe, length - 1)
        if before is None:
            return None
        budget = Budget.parse(self.entry["budgets"][match])
        left = max(0.0, budget.amount - budget.spent(Ledger.from_dict(before.run["ledger"]).total))
        candidate, step = copy.deepcopy(before), recipe.steps[length - 1]
        bench = Bench(
            entry=self.entry,
            key=f"{self.key} {match}-{recipe.name}",
            match=match,
            corpus=self.corpus,
            budget=budget,
            recovery=Budget(amount=left, resource=budget.resource),
            parent=source,
            validate=self.validate,
            checkpoint=self.work / f"{match}-{recipe.prefix(length)}.pt",
            share=recipe.share(length - 1),
        )
        try:
            METHODS[step.method](candidate, step, bench)
        except Diverged as fault:
            print(f"{bench.key}: {fault}; the row is marked diverged and the study goes on")
            return None
        return candidate

    def forget(self, match: str, recipes: list[Recipe]) -> None:
        """Drop what no recipe still to be made begins with, checkpoints too."""
        needed = {recipe.prefix(length) for recipe in recipes for length in range(len(recipe.steps) + 1)}
        for place in [place for place in self.made if place[0] != match or place[1] not in needed]:
            del self.made[place]
        for checkpoint in self.work.glob(f"{match}-*.pt"):
            if checkpoint.stem.removeprefix(f"{match}-") not in needed:
                checkpoint.unlink()


def read_recipes(entry: dict[str, Any], *, key: str) -> list[Recipe]:
    """Return an entry's recipes, those that share their first steps side by side; StudyError on an impossible order."""
    recipes = []
    for name, data in entry["recipes"].items():
        try:
            steps = _STEPS.validate_python(data["steps"])
            check_order(name, steps)
        except ValueError as error:
            raise StudyError(f"{key}: {' '.join(str(error).split())[:300]}") from error
        recipes.append(Recipe(name=name, branch=data["branch"], steps=steps))
    return sorted(recipes, key=lambda recipe: [recipe.branch, *(step.model_dump_json() for step in recipe.steps)])


def compress(
    entry: dict[str, Any], *, key: str, parent: Path, corpus: PreparedCorpus, out: Path, work: Path,
    validate: Callable[[Any], float],
) -> str:  # fmt: skip
    """Make every recipe of a family under every match from the run at `parent`; write `out` and return a summary line.

    `out` gets a model directory ``<match>-<recipe>`` each and metrics.json. Steps that recipes share are done once, and
    every row pays for all of its own. A killed run goes on from `work`.
    """
    begin(work, out=out)
    recipes = read_recipes(entry, key=key)
    workshop = Workshop(entry=entry, key=key, parent=parent, corpus=corpus, work=work, validate=validate)
    jobs = [(match, recipe) for match in entry["matches"] for recipe in recipes]
    metrics: dict[str, Any] = {}
    for number, (match, recipe) in enumerate(progress(jobs, desc=key, unit="recipe")):
        name = f"{match}-{recipe.name}"
        status = work / f"{name}.status.json"
        if not status.exists():
            write_json(status, write_model(workshop, match, recipe))
        metrics[name] = read_json(status)
        workshop.forget(match, [other for place, other in jobs[number + 1 :] if place == match])
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        for directory in sorted(work.iterdir()):
            if directory.is_dir() and not directory.name.startswith("."):
                shutil.copytree(directory, temporary / directory.name)
        write_json(temporary / "metrics.json", metrics)
    clear(work)
    good = [name for name, record in metrics.items() if record["status"] == "ok"]
    return f"{key}: made {len(good)} of {len(metrics)} models ({', '.join(good) or 'all diverged'})"


def _matrix_weights(candidate: Candidate) -> int:
    return sum(weight.numel() for weight in compressible(candidate.model).values())


def sparsity_of(candidate: Candidate, parent: Candidate) -> float:
    """Return the share of the parent's matrix weights that is gone, whole parts and masked weights alike."""
    masked = sum(int((~mask).sum()) for mask in candidate.masks.values())
    return 1 - (_matrix_weights(candidate) - masked) / _matrix_weights(parent)


def write_model(workshop: Workshop, match: str, recipe: Recipe) -> dict[str, Any]:
    """Make one recipe and write its model directory ``<match>-<recipe>`` into the work folder; return its metrics."""
    candidate, parent = (workshop.candidate(match, recipe, length) for length in (len(recipe.steps), 0))
    if candidate is None or parent is None:
        return {"status": "diverged"}
    entry, corpus = workshop.entry, workshop.corpus
    record = run_record(
        entry,
        vocab_size=corpus.vocab_size,
        match=match,
        parent_id=candidate.run["run_id"],
        steps_of_recipe=[step.model_dump() for step in recipe.steps],
        sparsity=round(sparsity_of(candidate, parent), 4) if "prune" in method_of(recipe.steps) else None,
        trained_size=candidate.run["size"],
        ledger=candidate.ledger.as_dict(),
        steps=candidate.run["steps"] + candidate.steps,
        precision=resolve(entry["precision"], training_device()),
        **workshop.names(match, recipe),
        **encoding_facts(candidate),
    )
    record["size"] = {
        **candidate.size.record(),
        "head_dim": candidate.size.head_dim,
        "vocab_size": corpus.vocab_size,
    }
    if "teacher_training" in candidate.run:
        record["teacher_training"] = candidate.run["teacher_training"]
    path = workshop.work / f"{match}-{recipe.name}"
    with model_directory(path, tokenizer=corpus.tokenizer(), run=record, corpus=corpus.card) as temporary:
        save_compressed(candidate, temporary)
    trained = any(map(trains, recipe.steps))
    return {
        "status": "ok",
        "steps": candidate.steps,
        "valid_loss": workshop.validate(candidate.model) if trained else None,
        "weight_errors": candidate.weight_errors,
    }
