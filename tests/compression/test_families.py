"""Families of recipes on a real tiny run: what they cost, what they keep at zero, and that a kill changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.budget import Ledger
from pipeline.compression.families import compress, read_recipes
from pipeline.compression.formats import load_model, size_bytes
from pipeline.compression.pruning import apply_masks, compressible, magnitude_masks
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.evaluation.losses import validation_loss
from pipeline.files import read_json, write_json
from pipeline.models.checkpoint import load_dense, read_run
from tests.runs import FOUR_BITS, KEY, MASKED, PRUNE, assert_same, at_steps, compression, die, pretrained


@pytest.fixture(scope="module")
def parent(corpus: PreparedCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained run."""
    return pretrained(corpus, tmp_path_factory.mktemp("parent"))


def _make(entry: dict[str, Any], corpus: PreparedCorpus, parent: Path, folder: Path) -> Path:
    out = folder / "toy"
    compress(
        entry, key=KEY, parent=parent, corpus=corpus, out=out, work=folder / "work", validate=validation_loss(corpus)
    )
    return out


@pytest.fixture(scope="module")
def pruned(corpus: PreparedCorpus, parent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, pruned to every level."""
    return _make(PRUNE, corpus, parent, tmp_path_factory.mktemp("pruned"))


@pytest.mark.parametrize(("recipe", "sparsity"), [("p50", 0.5), ("p50q4", 0.5), ("p90", 0.9), ("p90q4", 0.9)])
def test_weights_stay_at_zero_through_the_optimizer_into_the_file(pruned: Path, recipe: str, sparsity: float) -> None:
    model = load_model(pruned / f"seconds-{recipe}")
    for name, weight in compressible(model).items():
        zeros = (weight == 0).float().mean().item()
        assert zeros == pytest.approx(sparsity, abs=0.02) or zeros > sparsity, name
    assert read_run(pruned / f"seconds-{recipe}")["sparsity"] == pytest.approx(sparsity, abs=1e-3)


def test_recovery_spends_exactly_what_the_early_branch_left(parent: Path, pruned: Path) -> None:
    early = Ledger.from_dict(read_run(parent / "seconds-early")["ledger"]).total
    ledger = Ledger.from_dict(read_run(pruned / "seconds-p50")["ledger"])
    assert ledger.of("train") == early
    assert ledger.total.seconds == pytest.approx(40)
    assert ledger.of("finetune").seconds == pytest.approx(0.15 * 40)
    assert read_run(pruned / "seconds-p50q4")["ledger"] == read_run(pruned / "seconds-p50")["ledger"]
    assert read_run(pruned / "seconds-p50")["parent_id"] == f"{KEY}-seconds-early-fp32"


def test_finetuning_between_rounds_beats_one_shot_pruning(corpus: PreparedCorpus, parent: Path, pruned: Path) -> None:
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
            _make(PRUNE, corpus, parent, tmp_path)
    assert_same(_make(PRUNE, corpus, parent, tmp_path), pruned)


def test_steps_that_recipes_share_are_trained_once(
    corpus: PreparedCorpus, parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = MASKED | {"sparsity": 0.5}
    alone = at_steps(monkeypatch, (), die)
    _make(compression({"one": [masked]}), corpus, parent, tmp_path / "one")
    once = len(alone)
    both = at_steps(monkeypatch, (), die)
    _make(compression({"one": [masked], "other": [masked, FOUR_BITS]}), corpus, parent, tmp_path / "both")
    assert len(both) == once > 0


def test_quantization_costs_nothing_and_starts_from_the_full_branch(
    corpus: PreparedCorpus, parent: Path, tmp_path: Path
) -> None:
    entry = compression({f"q{bits}": [FOUR_BITS | {"bits": bits}] for bits in (8, 3)})
    out = _make(entry, corpus, parent, tmp_path)
    loss = validation_loss(corpus)
    dense = loss(load_dense(parent / "seconds"))
    eight, three = (loss(load_model(out / f"seconds-q{bits}")) for bits in (8, 3))
    assert eight == pytest.approx(dense, abs=0.02)
    assert three > eight
    assert read_run(out / "seconds-q3")["ledger"] == read_run(parent / "seconds")["ledger"]
    errors = read_json(out / "metrics.json")["seconds-q3"]["weight_errors"]
    assert errors.keys() == compressible(load_dense(parent / "seconds")).keys()
    assert all(0 < error < 1 for error in errors.values())


def test_steps_that_train_share_the_recovery_budget(corpus: PreparedCorpus, parent: Path, tmp_path: Path) -> None:
    steps = [MASKED | {"sparsity": 0.5, "share": 0.25}, {"method": "finetune"}, FOUR_BITS]
    out = _make(compression({"long": steps}), corpus, parent, tmp_path)
    ledger = Ledger.from_dict(read_run(out / "seconds-long")["ledger"])
    assert ledger.total.seconds == pytest.approx(40)
    (recipe,) = read_recipes(compression({"long": steps}), key=KEY)
    assert [recipe.share(number) for number in range(3)] == [0.25, 0.75, 0.0]


def test_a_step_that_has_another_share_is_another_step(corpus: PreparedCorpus, parent: Path, tmp_path: Path) -> None:
    cut, tuned = {"method": "ffn", "fraction": 0.5}, {"method": "finetune"}
    entry = compression({"alone": [cut, tuned], "shared": [cut, tuned, {"method": "qat", "bits": 4}]})
    out = _make(entry, corpus, parent, tmp_path)
    for recipe in ("alone", "shared"):
        ledger = Ledger.from_dict(read_run(out / f"seconds-{recipe}")["ledger"])
        assert ledger.of("finetune").seconds == pytest.approx(0.15 * 40)
    assert read_run(out / "seconds-shared")["bits"] == 4


def test_a_parent_of_another_architecture_is_refused(corpus: PreparedCorpus, parent: Path, tmp_path: Path) -> None:
    entry = compression({"q4": [FOUR_BITS]}, size="w32x1", d_model=32, ffn_dim=128)
    with pytest.raises(StudyError, match=r"another architecture, w16x1 where .* is made of w32x1"):
        _make(entry, corpus, parent, tmp_path)


def test_an_order_that_is_impossible_is_refused(corpus: PreparedCorpus, parent: Path, tmp_path: Path) -> None:
    entry = compression({"q4": [FOUR_BITS]})
    entry["recipes"]["q4"]["steps"].append(MASKED | {"sparsity": 0.5})
    with pytest.raises(StudyError, match=r"recipe q4: .*step 2 \(magnitude\) cannot follow uniform"):
        _make(entry, corpus, parent, tmp_path)


def test_a_parent_that_diverged_leaves_rows_marked_so(corpus: PreparedCorpus, tmp_path: Path) -> None:
    write_json(tmp_path / "parent" / "metrics.json", {"seconds-early": {"status": "diverged"}})
    out = _make(PRUNE, corpus, tmp_path / "parent", tmp_path)
    assert {record["status"] for record in read_json(out / "metrics.json").values()} == {"diverged"}
    assert not list(out.glob("seconds-*"))


def test_a_parent_that_is_not_there_is_an_error_and_not_a_divergence(corpus: PreparedCorpus, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"metrics\.json: no such file"):
        _make(PRUNE, corpus, tmp_path / "nothing", tmp_path)
    write_json(tmp_path / "parent" / "metrics.json", {"seconds-early": {"status": "ok"}})
    with pytest.raises(StudyError, match="no such branch; run pretrain again"):
        _make(PRUNE, corpus, tmp_path / "parent", tmp_path)
