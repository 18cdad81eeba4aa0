"""One recipe applied to a trained translation model that belongs to no study: an imported one, or anybody's.

It is made in the workshop of a study's families. What a study says once for all its runs is said here by the caller, with
defaults. Nobody has timed such a model's steps: its ledger counts FLOPs, tokens and steps, and no seconds, and a budget
is given in one of these.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from pipeline.budget import Budget, Ledger
from pipeline.compression.candidate import Candidate
from pipeline.compression.families import Recipe, Workshop, write_model
from pipeline.compression.formats import DENSE, weights_file
from pipeline.corpora.no_corpus import ModelsOwn
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.corpora.tokenizers_of import source_and_target
from pipeline.errors import StudyError, nearest
from pipeline.files import atomic_path, read_json, write_json
from pipeline.models.architectures import ENCODER, kind_of_config
from pipeline.models.checkpoint import NOT_STATED, load_dense, read_run
from pipeline.models.pruned import difference_of_sides, shape_of
from pipeline.recipes import Family, kind_of, method_of, trains
from pipeline.section import Section
from pipeline.study import load_study
from pipeline.training.branches import begin, clear

_NEEDS_SENTENCES = {"activations", "gptq", "wanda"}
_SAYS_NO_SIZE = {"uniform", "quanto", "magnitude"}  # the others count FLOPs, or cut both sides alike


class Settings(Section):
    """How recovery trains where neither the caller nor the model's own run.json says it; its dropout is in config.json."""

    seed: int = Field(default=0, ge=0)
    learning_rate: float = Field(default=0.0, ge=0)  # the peak; 0: `default_rate`
    dropout: float = Field(default=0.1, ge=0, lt=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    batch_tokens: int = Field(default=2000, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpoint_seconds: float = Field(default=30.0, gt=0)


def default_rate(d_model: int) -> float:
    """Return a peak learning rate for a width: 1.5e-3 at 256 columns, falling with the root of the width, at most 3e-3.

    A step's `learning_rate_fraction`, a half unless the recipe says otherwise, scales it down.
    """
    return min(3e-3, 1.5e-3 * math.sqrt(256 / d_model))


def read_recipe(text: str, *, studies: Path) -> Recipe:
    """Return a recipe: a list of steps as YAML, or STUDY/RECIPE, one of those in `studies`; StudyError on anything else."""
    import yaml

    try:
        steps = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StudyError(f"--recipe: not valid YAML ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(steps, str):
        return recipe_of(steps)
    study, _, name = steps.partition("/")
    if not name:
        raise StudyError(
            f"--recipe {text}: give a list of steps, such as '[{{method: uniform, bits: 4}}]', or STUDY/RECIPE"
        )
    families = load_study(studies / f"{study}.yaml").recipes.values()
    known = {recipe: made for family in families for recipe, made in family.recipes.items()}
    if name not in known:
        raise StudyError(f"--recipe {text}: study {study} has no recipe {name!r}{nearest(name, known)}")
    return Recipe(name=name, branch="full", steps=list(known[name]))


def recipe_of(steps: Any) -> Recipe:
    """Return the recipe of a list of steps as a study's YAML writes them; StudyError on what no study would take."""
    try:
        family = Family.model_validate({"recipes": {"given": steps}})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"][3:])
        message = first["msg"].removeprefix("Value error, ").replace("recipe given: ", "")
        raise StudyError(f"--recipe: {f'{place}: ' if place else ''}{message}") from None
    made = family.recipes["given"]
    return Recipe(name=kind_of(made), branch="full", steps=list(made))


def check_corpus(directory: Path, config: Any, corpus: PreparedCorpus) -> None:
    """Raise StudyError unless the corpus is encoded with the model's own tokenizers, for its own first token."""
    remedy = f"prepare it with `tokenizer: {directory}`"
    for side, own, other in zip(
        ("source", "target"), source_and_target(directory), source_and_target(corpus.path / "tokenizer"), strict=True
    ):
        if own.get_vocab() != other.get_vocab():
            raise StudyError(
                f"{corpus.path}: encoded with another {side} tokenizer ({len(other)} tokens) than {directory} has "
                f"({len(own)}); {remedy}"
            )
    if corpus.start_id != config.decoder_start_token_id:
        raise StudyError(
            f"{corpus.path}: its targets begin with token {corpus.start_id}, the model's with "
            f"{config.decoder_start_token_id}; {remedy}"
        )
    if corpus.vocab_size > config.vocab_size:
        raise StudyError(f"{corpus.path}: {corpus.vocab_size} tokens, but the model has {config.vocab_size}; {remedy}")
    splits = [corpus.pairs(name) for name in ("train", "valid")]
    longest = max(int(side.lengths.max(initial=0)) for split in splits for side in (split.source, split.target))
    if longest + 1 > config.max_position_embeddings:
        raise StudyError(
            f"{corpus.path}: sentences have up to {longest} tokens, the model {config.max_position_embeddings} positions; "
            "prepare it with a lower max_tokens"
        )


@dataclass(kw_only=True)
class _OneModel(Workshop):
    """The workshop of a model directory, which has no branches."""

    run: dict[str, Any]  # run.json, completed

    def source(self, match: str, recipe: Recipe) -> Path | None:
        """Return the model directory itself."""
        return self.parent

    def untouched(self, source: Path) -> Candidate:
        """Return the model as a candidate."""
        model = load_dense(source)
        size = shape_of(model.config)
        ledger = Ledger.from_dict(self.run["ledger"])
        return Candidate(model=model, size=size, trained_size=size, ledger=ledger, run=self.run)

    def names(self, match: str, recipe: Recipe) -> dict[str, Any]:
        """Return the parent's name with the recipe's behind it."""
        return {
            "run_id": f"{self.run['run_id']}-{recipe.name}",
            "config_id": f"{self.entry['size']}/{recipe.name}",
            "budget": self.entry["recovery_budget"] or self.run.get("budget", NOT_STATED),
            "method": method_of(recipe.steps),
            "recipe": recipe.name,
            "corpus": {name: self.corpus.card[name] for name in FACTS},
            **({"imported": self.run["imported"]} if "imported" in self.run else {}),  # what its text must look like
        }


FACTS = ("source_lang", "target_lang", "license", "credit")
"""What a card says of the data."""


def describe(directory: Path) -> dict[str, Any]:
    """Return a model directory's run.json, completed where it is no run of a study or there is none."""
    run = read_run(directory) if (directory / "run.json").is_file() else {}
    return (
        {"run_id": directory.resolve().name, "study": NOT_STATED, "ledger": {}} | run | {"steps": run.get("steps") or 0}
    )


def entry_of(directory: Path, recipe: Recipe, *, budget: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a params.yaml entry would say: shape, budget and settings, those of `settings` before the model's own.

    StudyError on an encoder, on a budget in seconds, one without a step that trains or the other way round.
    """
    from types import SimpleNamespace

    path, run = directory / "config.json", describe(directory)
    config = read_json(path)
    if kind_of_config(config, path) == ENCODER:
        raise StudyError(
            f"{directory}: an encoder, which tlc compress does not take; compress it in its study (tlc quantize, tlc prune)"
        )
    size = shape_of(SimpleNamespace(**config))
    own = {name: value for name, value in (run.get("entry") or {}).items() if name in Settings.model_fields}
    try:
        chosen = Settings(**({"dropout": config.get("dropout", 0.1)} | own | dict(settings))).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise StudyError(f"--set {first['loc'][0]}={first['input']}: {first['msg']}") from None
    chosen["learning_rate"] = chosen["learning_rate"] or default_rate(size.d_model)
    trained = any(map(trains, recipe.steps))
    if trained and budget is None:
        raise StudyError(f"{recipe.name}: it trains; say for how long with --budget, such as '1000 step' or '2e6 tok'")
    if budget is not None and not trained:
        raise StudyError(f"--budget {budget}: no step of {recipe.name} trains; leave it out")
    resource, total = "steps", 1.0
    if budget is not None:
        given = Budget.parse(budget)
        if given.resource == "seconds":
            raise StudyError(f"--budget {budget}: nobody has timed this model's steps; give it in step, tok or flop")
        resource, total = given.resource, given.spent(Ledger.from_dict(run["ledger"]).total) + given.amount
    return chosen | {
        "study": run["study"],
        "task": "translation",
        **size.model_dump(include={"d_model", "num_layers", "num_heads", "ffn_dim"}),
        "size": size.key,
        "mup_base_width": (run.get("entry") or {}).get("mup_base_width"),
        "seconds_per_step": {},
        "counts_seconds": False,
        "recovery_budget": budget,
        "budgets": {resource: f"{total!r} {_UNITS[resource]}"},
        "steps_of_recipe": [step.model_dump() for step in recipe.steps],
    }


_UNITS = {"flops": "flop", "tokens": "tok", "steps": "step"}


def check_recipe(directory: Path, recipe: Recipe, config: Any, corpus: PreparedCorpus | None) -> None:
    """Raise StudyError where the recipe cannot be done: without sentences, or to sides that are not alike."""
    difference = difference_of_sides(config)
    for step in recipe.steps:
        if corpus is None and (step.method in _NEEDS_SENTENCES or trains(step)):
            what = "trains on" if trains(step) else "calibrates on"
            raise StudyError(f"{step.method} {what} sentences; give a prepared corpus with --corpus")
        if difference and (step.method not in _SAYS_NO_SIZE or trains(step)):
            raise StudyError(
                f"{directory}: encoder and decoder have {difference}; {step.method} is made for sides that are alike, "
                f"{', '.join(sorted(_SAYS_NO_SIZE))} without training apply"
            )


def compress_model(
    directory: Path, recipe: Recipe, *, entry: dict[str, Any], corpus: PreparedCorpus | None, out: Path, work: Path,
    validate: Callable[[Any], float],
) -> dict[str, Any]:  # fmt: skip
    """Apply a recipe to the model in `directory` and write the model directory `out`; return its run.json.

    `entry` is `entry_of`'s. A killed call goes on from `work`. StudyError where the recipe cannot be done to the model,
    where `corpus` is not encoded for it, and where training diverged.
    """
    if weights_file(directory).name != DENSE:
        raise StudyError(f"{directory}: it is compressed already; give the model that it was made of")
    config = load_dense(directory).config
    check_recipe(directory, recipe, config, corpus)
    if corpus is not None:
        check_corpus(directory, config, corpus)
    run = describe(directory)
    known = run.get("corpus") or (corpus.card if corpus is not None else {})
    facts = {name: known.get(name, NOT_STATED) for name in FACTS}
    run["size"] = dict(run.get("size") or {}) or entry_size(entry) | {"vocab_size": config.vocab_size}
    begin(work, out=out)
    workshop = _OneModel(
        entry=entry,
        key=str(directory),
        parent=directory,
        corpus=ModelsOwn(directory, vocab_size=config.vocab_size, facts=facts, corpus=corpus),
        work=work,
        validate=validate,
        run=run,
    )
    (match,) = entry["budgets"]
    name = f"{match}-{recipe.name}"
    status = work / f"{name}.status.json"
    if not status.exists():
        write_json(status, write_model(workshop, match, recipe))
    if read_json(status)["status"] != "ok":
        clear(work)
        raise StudyError(
            f"{directory}: training diverged; lower it with --set learning_rate={entry['learning_rate'] / 2:g}"
        )
    with atomic_path(out) as temporary:
        shutil.copytree(work / name, temporary)
    clear(work)
    return read_run(out)


def entry_size(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry's shape as run.json records it."""
    return {name: entry[name] for name in ("d_model", "num_layers", "num_heads", "ffn_dim")}
