"""What every compression method has to do, one test for all: survive a kill, round-trip, count its bytes, do nothing at 0."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from pipeline.budget import Ledger
from pipeline.compression import families
from pipeline.compression.candidate import Candidate
from pipeline.compression.families import compress
from pipeline.compression.formats import DENSE, load_model, size_bytes, stored_numbers, weights_file
from pipeline.compression.registry import METHODS
from pipeline.compression.sizes import entropy_coded_bytes, parameter_shapes, size_bytes_theory
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.evaluation.losses import validation_loss
from pipeline.files import write_json
from pipeline.models.checkpoint import AUTO_CLASSES, load_dense, read_run
from pipeline.models.pruned import is_heads_pruned
from pipeline.recipes import Step
from tests.compression.finetuned import BUDGET_SECONDS, recipes_for_classes
from tests.runs import KEY, assert_same, at_steps, compression, die, pretrained

SETTINGS: dict[str, dict[str, Any]] = {
    "activations": {"bits": 8, "sentences": 16},
    "distill": {},
    "ffn": {"fraction": 0.5},
    "finetune": {},
    "gptq": {"bits": 4, "sentences": 16},
    "heads": {"fraction": 0.5},
    "layers": {"fraction": 0.5},
    "magnitude": {"sparsity": 0.5, "rounds": 2},
    "qat": {"bits": 3},
    "quanto": {"bits": 4},
    "uniform": {"bits": 4},
    "wanda": {"sparsity": 0.5, "sentences": 16, "rounds": 2},
    "width": {"fraction": 0.5},
}
NOTHING: dict[str, dict[str, Any]] = {
    **{name: {"bits": 32} for name in ("activations", "gptq", "qat", "quanto", "uniform")},
    **{name: {"share": 0.0} for name in ("distill", "finetune")},
    **{name: {"fraction": 0.0} for name in ("ffn", "heads", "layers", "width")},
    **{name: {"sparsity": 0.0} for name in ("magnitude", "wanda")},
}
SMALLER = sorted(set(METHODS) - {"activations", "distill", "finetune"})
TRAINS = {"distill", "finetune", "magnitude", "qat", "wanda"}
KEEPS_THE_SHAPE = sorted(set(METHODS) - {"ffn", "heads", "layers", "width"})

# Two heads and two layers, so that half of each can go.
SHAPE = {"size": "w64x2f128", "d_model": 64, "num_layers": 2, "num_heads": 2, "ffn_dim": 128}
KEY_OF_SHAPE = "w64x2f128"
SECONDS = {
    **{kind: {KEY_OF_SHAPE: 0.5} for kind in ("train", "finetune", "qat")},
    "word": {f"{KEY_OF_SHAPE}<-{KEY_OF_SHAPE}": 0.7},
}


Recipes = dict[str, list[dict[str, Any]]]


def _of_translation(recipes: Recipes) -> dict[str, Any]:
    return compression(recipes, **SHAPE, seconds_per_step=SECONDS)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained run of a task, and what its families are made with."""

    task: str
    parent: Path
    corpus: PreparedCorpus
    budget_seconds: float
    recipes: Callable[[Recipes], dict[str, Any]]  # the entry of a family

    def make(self, name: str, settings: dict[str, Any], folder: Path, *, parent: Path | None = None) -> Path:
        """Make a family of one recipe of one step; return its folder."""
        out, loss = folder / "toy", validation_loss(self.corpus)
        entry = self.recipes({"toy": [{"method": name} | settings]})
        work = folder / "work"
        compress(entry, key=KEY, parent=parent or self.parent, corpus=self.corpus, out=out, work=work, validate=loss)
        return out


@pytest.fixture(scope="module", params=["translation", "classification"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A pretrained translation model, then a finetuned classifier, of two heads and two layers."""
    task = str(request.param)
    if task == "classification":
        parent, corpus = (request.getfixturevalue(name) for name in ("finetuned_run", "sentences"))
        return Run(task=task, parent=parent, corpus=corpus, budget_seconds=BUDGET_SECONDS, recipes=recipes_for_classes)
    corpus = request.getfixturevalue("corpus")
    parent = pretrained(corpus, tmp_path_factory.mktemp("parent"), **SHAPE)
    return Run(task=task, parent=parent, corpus=corpus, budget_seconds=40, recipes=_of_translation)


Made = dict[str, tuple[Path, float]]


@pytest.fixture(scope="module")
def made(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What each method makes of the parent: its model directory, and the validation loss of what was saved there."""
    loss, losses = validation_loss(run.corpus), []
    written = families.save_compressed

    def measured(candidate: Candidate, directory: Path) -> Any:
        losses.append(loss(candidate.model))
        return written(candidate, directory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "save_compressed", measured)
        folders = {name: run.make(name, settings, tmp_path_factory.mktemp(name)) for name, settings in SETTINGS.items()}
    return {name: (folder / "seconds-toy", at) for (name, folder), at in zip(folders.items(), losses, strict=True)}


def test_the_registry_the_recipes_and_these_tests_name_the_same_methods() -> None:
    known = {get_args(settings.model_fields["method"].annotation)[0] for settings in get_args(get_args(Step)[0])}
    assert known == set(METHODS) == set(SETTINGS) == set(NOTHING)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_is_a_file_and_begins_with_its_card(name: str) -> None:
    module = sys.modules[METHODS[name].__module__]
    assert module.__name__ == f"pipeline.compression.methods.{name}"
    starts = re.findall(r"^(What it does|Source|When it helps|When not):", str(module.__doc__), re.M)
    assert starts == ["What it does", "Source", "When it helps", "When not"]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_killed_and_resumed_it_writes_the_same_file(
    name: str, run: Run, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = families.save_compressed

    def dies_after_writing(*arguments: Any, **options: Any) -> Any:
        written(*arguments, **options)
        die()

    at_steps(monkeypatch, (3,), die)
    monkeypatch.setattr(families, "save_compressed", dies_after_writing)
    for _ in range(2):
        with pytest.raises(MemoryError):
            run.make(name, SETTINGS[name], tmp_path)
    assert not (tmp_path / "toy").exists()
    monkeypatch.undo()
    assert_same(run.make(name, SETTINGS[name], tmp_path), made[name][0].parent)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_is_loaded_is_what_was_saved_to_the_bit(name: str, run: Run, made: Made) -> None:
    directory, loss_of_saved = made[name]
    assert validation_loss(run.corpus)(load_model(directory)) == loss_of_saved


LOAD = """
import json, sys
import torch, transformers
ids = torch.tensor([[5, 9, 7, 30, 2], [8, 14, 2, 1, 1]])
fields = {"input_ids": ids, "attention_mask": (ids != 1).long()}
answers = {}
for directory in sys.argv[2:]:
    model = getattr(transformers, sys.argv[1]).from_pretrained(directory, attn_implementation="eager").eval()
    if model.config.is_encoder_decoder:
        fields["decoder_input_ids"] = ids
    answers[directory] = model(**fields).logits.tolist()
assert not any(name.startswith("pipeline") for name in sys.modules)
print(json.dumps(answers))
"""


def test_plain_directories_load_in_a_program_that_knows_transformers_alone(run: Run, made: Made) -> None:
    plain = {name: directory for name, (directory, _) in made.items() if weights_file(directory).name == DENSE}
    assert set(plain) == {"distill", "ffn", "finetune", "layers", "width"}
    arguments = [sys.executable, "-I", "-c", LOAD, AUTO_CLASSES[run.task], *map(str, plain.values())]
    answers = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    ids = torch.tensor([[5, 9, 7, 30, 2], [8, 14, 2, 1, 1]])
    fields = {"input_ids": ids, "attention_mask": (ids != 1).long()}
    if run.task == "translation":
        fields["decoder_input_ids"] = ids
    for directory in plain.values():
        with torch.no_grad():
            expected = load_model(directory)(**fields).logits
        torch.testing.assert_close(torch.tensor(answers[str(directory)]), expected)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_it_says_what_it_is(name: str, run: Run, made: Made) -> None:
    directory, _ = made[name]
    record = read_run(directory)
    assert record["task"] == run.task
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    assert is_heads_pruned(config) == (name == "heads")
    before = read_run(run.parent / "seconds")["size"]
    changed = {key for key, value in before.items() if record["size"][key] != value}
    assert changed == {
        "ffn": {"ffn_dim"}, "heads": {"num_heads"}, "layers": {"num_layers"}, "width": {"d_model", "num_heads"}
    }.get(name, set())  # fmt: skip
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert (f"{AUTO_CLASSES[run.task]}.from_pretrained" in card) == (weights_file(directory).name == DENSE)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_its_bytes_are_those_of_the_file(name: str, run: Run, made: Made) -> None:
    directory, _ = made[name]
    written = size_bytes(directory)
    assert written == weights_file(directory).stat().st_size
    # The numbers alone are less than the file, and the file is not much more than they, their scales, and its header.
    bits, kept = stored_numbers(directory)
    theory = size_bytes_theory(parameter_shapes(load_model(directory)), bits=bits, kept=kept)
    assert theory <= written <= 1.35 * theory + 4096
    assert entropy_coded_bytes(weights_file(directory)) < 1.01 * written
    if name in SMALLER:
        assert written < 0.9 * size_bytes(run.parent / "seconds")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_at_strength_0_it_does_nothing_and_costs_nothing(name: str, run: Run, tmp_path: Path) -> None:
    out = run.make(name, NOTHING[name], tmp_path) / "seconds-toy"
    branch = run.parent / ("seconds-early" if "early" in read_run(out)["parent_id"] else "seconds")
    assert weights_file(out).name == DENSE
    assert weights_file(out).read_bytes() == weights_file(branch).read_bytes()
    assert read_run(out)["ledger"] == read_run(branch)["ledger"]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_it_spends_no_more_than_the_budget_and_a_few_steps_of_calibration(name: str, run: Run, made: Made) -> None:
    ledger = Ledger.from_dict(read_run(made[name][0])["ledger"])
    calibrated = ledger.of("calibrate").seconds
    assert ledger.total.seconds - calibrated <= run.budget_seconds + 1e-6
    assert calibrated <= 4 * 0.5  # training steps of this tiny run
    if name in TRAINS:
        assert ledger.total.seconds == pytest.approx(run.budget_seconds, abs=0.7)


@pytest.mark.parametrize("name", KEEPS_THE_SHAPE)
def test_what_it_makes_is_not_far_from_the_parent(name: str, run: Run, made: Made) -> None:
    loss = validation_loss(run.corpus)
    assert loss(load_model(made[name][0])) < loss(load_dense(run.parent / "seconds")) + 0.5


def test_a_parent_that_diverged_is_said_of_every_method(run: Run, tmp_path: Path) -> None:
    write_json(
        tmp_path / "parent" / "metrics.json",
        {"seconds": {"status": "diverged"}, "seconds-early": {"status": "diverged"}},
    )
    for name, settings in SETTINGS.items():
        out = run.make(name, settings, tmp_path / name, parent=tmp_path / "parent")
        assert not list(out.glob("seconds-*"))
