"""Pruning with recovery on a real tiny run: what it costs, what it keeps at zero, and that a kill changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.budget import Ledger
from pipeline.compression.formats import load_model, size_bytes
from pipeline.compression.posttraining import quantize_run
from pipeline.compression.pruning import compressible
from pipeline.compression.recovery import prune_run
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.evaluation.losses import validation_loss
from pipeline.files import read_json, write_json
from pipeline.models.checkpoint import load_dense, read_run
from tests.runs import COMMON, KEY, PRUNE, at_steps, die, pretrained


@pytest.fixture(scope="module")
def parent(corpus: PreparedCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained run."""
    return pretrained(corpus, tmp_path_factory.mktemp("parent"))


def _prune(corpus: PreparedCorpus, parent: Path, folder: Path) -> Path:
    out = folder / "prune"
    options = {"parent": parent, "corpus": corpus, "out": out, "work": folder / "work"}
    prune_run(PRUNE, key=KEY, validate=validation_loss(corpus), **options)
    return out


@pytest.fixture(scope="module")
def pruned(corpus: PreparedCorpus, parent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, pruned to every level."""
    return _prune(corpus, parent, tmp_path_factory.mktemp("pruned"))


@pytest.mark.parametrize(("recipe", "sparsity"), [("p50", 0.5), ("p50q4", 0.5), ("p90", 0.9), ("p90q4", 0.9)])
def test_weights_stay_at_zero_through_the_optimizer_into_the_file(pruned: Path, recipe: str, sparsity: float) -> None:
    model = load_model(pruned / f"seconds-{recipe}")
    for name, weight in compressible(model).items():
        zeros = (weight == 0).float().mean().item()
        assert zeros == pytest.approx(sparsity, abs=0.02) or zeros > sparsity, name


def test_recovery_spends_exactly_what_the_early_branch_left(parent: Path, pruned: Path) -> None:
    early = Ledger.from_dict(read_run(parent / "seconds-early")["ledger"]).total
    ledger = Ledger.from_dict(read_run(pruned / "seconds-p50")["ledger"])
    assert ledger.of("train") == early
    assert ledger.total.seconds == pytest.approx(40)
    assert ledger.of("finetune").seconds == pytest.approx(0.15 * 40)
    assert read_run(pruned / "seconds-p50q4")["ledger"] == read_run(pruned / "seconds-p50")["ledger"]
    assert read_run(pruned / "seconds-p50")["parent_id"] == f"{KEY}-seconds-early-fp32"


def test_finetuning_between_rounds_beats_one_shot_pruning(corpus: PreparedCorpus, parent: Path, pruned: Path) -> None:
    from pipeline.compression.pruning import apply_masks, magnitude_masks

    model = load_dense(parent / "seconds")
    weights = {name: weight.detach() for name, weight in compressible(model).items()}
    apply_masks(model, magnitude_masks(weights, 0.9))
    assert read_json(pruned / "metrics.json")["seconds-p90"]["valid_loss"] < validation_loss(corpus)(model)


def test_more_pruning_and_fewer_bits_write_smaller_files(parent: Path, pruned: Path) -> None:
    sizes = [size_bytes(pruned / f"seconds-{recipe}") for recipe in ("p50", "p90", "p50q4", "p90q4")]
    assert size_bytes(parent / "seconds") > sizes[0] > sizes[1]
    assert sizes[0] > sizes[2] > sizes[3]


def test_killed_and_resumed_it_writes_the_same_models(
    corpus: PreparedCorpus, parent: Path, pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_steps(monkeypatch, (3, 8, 20), die)
    for _ in range(3):
        with pytest.raises(MemoryError):
            _prune(corpus, parent, tmp_path)
    again = _prune(corpus, parent, tmp_path)
    for weights in sorted(pruned.glob("*/weights.safetensors")):
        assert weights.read_bytes() == (again / weights.relative_to(pruned)).read_bytes(), weights.parent.name


def test_quantization_of_the_run_writes_every_width_and_costs_nothing(
    corpus: PreparedCorpus, parent: Path, tmp_path: Path
) -> None:
    entry = {**COMMON, "matches": ["seconds"], "bits": [8, 3]}
    quantize_run(entry, key=KEY, parent=parent, corpus=corpus, out=tmp_path / "quantize")
    loss = validation_loss(corpus)
    dense = loss(load_dense(parent / "seconds"))
    eight, three = (loss(load_model(tmp_path / "quantize" / f"seconds-q{bits}")) for bits in (8, 3))
    assert eight == pytest.approx(dense, abs=0.02)
    assert three > eight
    assert read_run(tmp_path / "quantize" / "seconds-q3")["ledger"] == read_run(parent / "seconds")["ledger"]


def test_a_parent_that_diverged_leaves_rows_marked_so(corpus: PreparedCorpus, tmp_path: Path) -> None:
    write_json(tmp_path / "parent" / "metrics.json", {"seconds-early": {"status": "diverged"}})
    out = _prune(corpus, tmp_path / "parent", tmp_path)
    assert {record["status"] for record in read_json(out / "metrics.json").values()} == {"diverged"}
    assert not list(out.glob("seconds-*"))


def test_a_parent_that_is_not_there_is_an_error_and_not_a_divergence(corpus: PreparedCorpus, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"metrics\.json: no such file"):
        _prune(corpus, tmp_path / "nothing", tmp_path)
    write_json(tmp_path / "parent" / "metrics.json", {"seconds-early": {"status": "ok"}})
    with pytest.raises(StudyError, match="no such branch; run pretrain again"):
        _prune(corpus, tmp_path / "parent", tmp_path)
