"""What every compression method has to do, one test for all: survive a kill, round-trip, count its bytes, do nothing at 0."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from transformers import AutoModelForSeq2SeqLM

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
from pipeline.models.checkpoint import load_dense, read_run
from pipeline.recipes import Step
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
KEEPS_THE_SHAPE = sorted(set(METHODS) - {"ffn", "heads", "layers", "width"})

# Two heads and two layers, so that half of each can go.
SHAPE = {"size": "w64x2f128", "d_model": 64, "num_layers": 2, "num_heads": 2, "ffn_dim": 128}
KEY_OF_SHAPE = "w64x2f128"
SECONDS = {
    **{kind: {KEY_OF_SHAPE: 0.5} for kind in ("train", "finetune", "qat")},
    "word": {f"{KEY_OF_SHAPE}<-{KEY_OF_SHAPE}": 0.7},
}


def _entry(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    return compression({"toy": [{"method": name} | settings]}, **SHAPE, seconds_per_step=SECONDS)


@pytest.fixture(scope="module")
def parent(corpus: PreparedCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained run with two heads and two layers."""
    return pretrained(corpus, tmp_path_factory.mktemp("parent"), **SHAPE)


def _make(entry: dict[str, Any], corpus: PreparedCorpus, parent: Path, folder: Path) -> Path:
    out = folder / "toy"
    compress(
        entry, key=KEY, parent=parent, corpus=corpus, out=out, work=folder / "work", validate=validation_loss(corpus)
    )
    return out


Made = dict[str, tuple[Path, float]]


@pytest.fixture(scope="module")
def made(corpus: PreparedCorpus, parent: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What each method makes of the parent: its model directory, and the validation loss of what was saved there."""
    loss, losses = validation_loss(corpus), []
    written = families.save_compressed

    def measured(candidate: Candidate, directory: Path) -> Any:
        losses.append(loss(candidate.model))
        return written(candidate, directory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "save_compressed", measured)
        folders = {
            name: _make(_entry(name, settings), corpus, parent, tmp_path_factory.mktemp(name))
            for name, settings in SETTINGS.items()
        }
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
    name: str,
    made: Made,
    corpus: PreparedCorpus,
    parent: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = _entry(name, SETTINGS[name])
    written = families.save_compressed

    def dies_after_writing(*arguments: Any, **options: Any) -> Any:
        written(*arguments, **options)
        die()

    at_steps(monkeypatch, (3,), die)
    monkeypatch.setattr(families, "save_compressed", dies_after_writing)
    for _ in range(2):
        with pytest.raises(MemoryError):
            _make(entry, corpus, parent, tmp_path)
    assert not (tmp_path / "toy").exists()
    monkeypatch.undo()
    assert_same(_make(entry, corpus, parent, tmp_path), made[name][0].parent)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_is_loaded_is_what_was_saved_to_the_bit(name: str, made: Made, corpus: PreparedCorpus) -> None:
    directory, loss_of_saved = made[name]
    model = load_model(directory)
    assert validation_loss(corpus)(model) == loss_of_saved
    if weights_file(directory).name == DENSE:
        plain = AutoModelForSeq2SeqLM.from_pretrained(directory).state_dict()
        assert all(weight.equal(plain[weight_name]) for weight_name, weight in model.state_dict().items())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_its_bytes_are_those_of_the_file(name: str, made: Made, parent: Path) -> None:
    directory, _ = made[name]
    written = size_bytes(directory)
    assert written == weights_file(directory).stat().st_size
    # The numbers alone are less than the file, and the file is not much more than they, their scales, and its header.
    bits, kept = stored_numbers(directory)
    theory = size_bytes_theory(parameter_shapes(load_model(directory)), bits=bits, kept=kept)
    assert theory <= written <= 1.35 * theory + 4096
    assert entropy_coded_bytes(weights_file(directory)) < 1.01 * written
    if name in SMALLER:
        assert written < 0.9 * size_bytes(parent / "seconds")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_at_strength_0_it_does_nothing_and_costs_nothing(
    name: str, corpus: PreparedCorpus, parent: Path, tmp_path: Path
) -> None:
    out = _make(_entry(name, NOTHING[name]), corpus, parent, tmp_path) / "seconds-toy"
    branch = "seconds-early" if "early" in read_run(out)["parent_id"] else "seconds"
    assert weights_file(out).name == DENSE
    assert weights_file(out).read_bytes() == weights_file(parent / branch).read_bytes()
    assert read_run(out)["ledger"] == read_run(parent / branch)["ledger"]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_it_spends_no_more_than_the_budget_and_a_few_steps_of_calibration(name: str, made: Made) -> None:
    ledger = Ledger.from_dict(read_run(made[name][0])["ledger"])
    calibrated = ledger.of("calibrate").seconds
    assert ledger.total.seconds - calibrated <= 40 + 1e-6
    assert calibrated <= 3 * 0.5  # training steps of this tiny run


@pytest.mark.parametrize("name", KEEPS_THE_SHAPE)
def test_what_it_makes_is_not_far_from_the_parent(name: str, made: Made, corpus: PreparedCorpus, parent: Path) -> None:
    loss = validation_loss(corpus)
    assert loss(load_model(made[name][0])) < loss(load_dense(parent / "seconds")) + 0.5


def test_a_parent_that_diverged_is_said_of_every_method(corpus: PreparedCorpus, tmp_path: Path) -> None:
    write_json(
        tmp_path / "parent" / "metrics.json",
        {"seconds": {"status": "diverged"}, "seconds-early": {"status": "diverged"}},
    )
    for name, settings in SETTINGS.items():
        out = _make(_entry(name, settings), corpus, tmp_path / "parent", tmp_path / name)
        assert not list(out.glob("seconds-*"))
