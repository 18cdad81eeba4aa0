"""Finetuning: what pretraining left of the budget and no more, a classifier of every branch, and one beside it without pretraining."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pipeline.budget import Budget, Ledger
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.corpora.streams import open_stream
from pipeline.errors import StudyError
from pipeline.evaluation.losses import validation_loss
from pipeline.files import read_json, write_json
from pipeline.models.checkpoint import load_dense, read_run
from pipeline.size import SizeSpec
from pipeline.training.finetuning import finetune
from pipeline.training.objectives import CrossEntropy
from pipeline.training.pretraining import pretrain
from pipeline.training.pricing import step_price, total_costs
from pipeline.training.schedules import warm_and_linear
from tests.runs import FINETUNE, KEY, MASKED_LM, at_steps, die

BUDGETS = {"seconds": "20 s", "flops": "2.4e8 flop"}
SECONDS = {"seconds": "20 s"}
RARELY = {"checkpoint_seconds": 1e9}
PRETRAINING = MASKED_LM | RARELY | {"budgets": BUDGETS}
ENTRY = FINETUNE | RARELY | {"budgets": BUDGETS}
BRANCHES = {"seconds": 1.0, "seconds-early": 0.85, "flops": 1.0, "flops-early": 0.85}
SCRATCHES = {"seconds-scratch": "seconds", "flops-scratch": "flops"}


@dataclass(frozen=True, kw_only=True)
class Study:
    """A pretrained encoder, the sentences to finetune it on, and its classifiers."""

    pretrained: Path
    sentences: PreparedCorpus
    classifiers: Path

    def finetune(self, folder: Path, *, pretrained: Path | None = None, **changes: Any) -> Path:
        """Finetune in `folder`; return the classifiers' folder."""
        out = folder / "out"
        finetune(
            ENTRY | changes,
            key=KEY,
            pretrained=pretrained or self.pretrained,
            corpus=self.sentences,
            out=out,
            work=folder / "work",
            validate=validation_loss(self.sentences),
        )
        return out

    def diverged(self, folder: Path, *names: str) -> Path:
        """Return the folder of the same encoder, some of whose branches diverged."""
        copied = folder / "pretrained"
        shutil.copytree(self.pretrained, copied)
        metrics = read_json(copied / "metrics.json")
        for name in names:
            shutil.rmtree(copied / name)
            metrics[name] = {"status": "diverged", "steps": metrics[name]["steps"]}
        write_json(copied / "metrics.json", metrics)
        return copied


@pytest.fixture(scope="module")
def study(encoder_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """With dropout on: an encoder pretrained to two budgets, and its classifiers."""
    folder = tmp_path_factory.mktemp("finetuning")
    text, sentences = (PreparedCorpus.open_task(encoder_corpus, task) for task in ("masked_lm", "classification"))
    validate, pretrained = validation_loss(text), folder / "pretrained"
    pretrain(PRETRAINING, key=KEY, corpus=text, out=pretrained, work=folder / "work", validate=validate)
    study = Study(pretrained=pretrained, sentences=sentences, classifiers=folder / "out")
    study.finetune(folder)
    assert not (folder / "work").exists()
    return study


def test_every_branch_becomes_a_classifier_and_has_one_beside_it_that_was_not_pretrained(study: Study) -> None:
    names = {path.name for path in study.classifiers.iterdir() if path.is_dir()}
    assert names == {*BRANCHES, *SCRATCHES}
    for name in names:
        model: Any = load_dense(study.classifiers / name)
        assert type(model).__name__ == "RobertaPreLayerNormForSequenceClassification"
        assert model.config.num_labels == 2
        run = read_run(study.classifiers / name)
        recipe = "scratch" if name in SCRATCHES else "fp32"
        assert run["run_id"] == (f"{KEY}-{name}" if name in SCRATCHES else f"{KEY}-{name}-fp32")
        assert (run["task"], run["method"], run["recipe"]) == ("classification", "none", recipe)
        assert (run["match"], run["config_id"]) == (name.split("-")[0], f"w16x1/{recipe}")
        assert run["size_key"] == "w16x1"
        assert run["size"]["num_labels"] == 2
        parent = None if name in SCRATCHES else read_run(study.pretrained / name)["run_id"]
        assert run["parent_id"] == parent
        assert parent is None or parent == f"{KEY}-{name}-pretrained"


@pytest.mark.parametrize(("name", "fraction"), BRANCHES.items())
def test_pretraining_and_finetuning_together_spend_the_budget_to_one_step(
    study: Study, name: str, fraction: float
) -> None:
    """The price of the next step is what would not have fit."""
    run, before = read_run(study.classifiers / name), read_run(study.pretrained / name)
    budget = Budget.parse(BUDGETS[run["match"]]).scaled(fraction)
    assert run["budget"] == str(budget)
    ledger = Ledger.from_dict(run["ledger"])
    assert ledger.of("train") == Ledger.from_dict(before["ledger"]).total, "what pretraining cost is carried over"
    assert ledger.of("finetune").steps == run["steps"] > 1
    assert set(ledger.by_purpose) == {"train", "finetune"}
    stream = open_stream(study.sentences.split("train"), batch_tokens=ENTRY["batch_tokens"], seed=2000)
    price = step_price(
        SizeSpec.of_record(ENTRY), vocab_size=study.sentences.vocab_size, seconds_per_step=0.5, purpose="finetune"
    )
    costs = [cost for cost, _ in zip(total_costs(stream, price), range(run["steps"] + 1), strict=False)]
    assert ledger.of("finetune").flops == sum(cost.flops for cost in costs[:-1])
    assert ledger.of("finetune").tokens == sum(cost.tokens for cost in costs[:-1])
    assert budget.admits(ledger.total)
    assert not budget.admits(ledger.total + costs[-1]), "a step more would have fit"
    assert Budget.parse(BUDGETS[run["match"]]).scaled(fraction - 0.25).admits(ledger.of("train"))


@pytest.mark.parametrize(("name", "beside"), SCRATCHES.items())
def test_without_pretraining_as_many_steps_are_made_and_only_they_are_paid_for(
    study: Study, name: str, beside: str
) -> None:
    run, other = (read_run(study.classifiers / place) for place in (name, beside))
    assert run["steps"] == other["steps"]
    assert run["ledger"] == {"finetune": other["ledger"]["finetune"]}
    assert run["budget"] == other["budget"]
    weights = [load_file(study.classifiers / place / "model.safetensors") for place in (name, beside)]
    assert all(not torch.equal(weight, weights[1][key]) for key, weight in weights[0].items() if weight.ndim == 2)


def test_metrics_have_the_loss_of_the_masked_lm_that_each_began_as(study: Study) -> None:
    metrics, before = (read_json(place / "metrics.json") for place in (study.classifiers, study.pretrained))
    assert set(metrics) == {*BRANCHES, *SCRATCHES}
    loss = validation_loss(study.sentences)
    for name, record in metrics.items():
        assert record["status"] == "ok"
        assert record["steps"] == read_run(study.classifiers / name)["steps"]
        assert record["pretrain_valid_loss"] == (None if name in SCRATCHES else before[name]["valid_loss"])
        assert record["valid_loss"] == pytest.approx(loss(load_dense(study.classifiers / name)), rel=1e-6)
        assert record["train_loss"] > 0


def test_the_curve_goes_on_from_what_pretraining_spent(study: Study) -> None:
    curve = pd.read_csv(study.classifiers / "curve.csv")
    metrics = read_json(study.classifiers / "metrics.json")
    assert set(curve.phase) == set(metrics)
    for name, points in curve.groupby("phase"):
        record, run = metrics[name], read_run(study.classifiers / str(name))
        steps, total = record["steps"], Ledger.from_dict(run["ledger"]).total
        assert points.step.tolist() == sorted({steps * part // 4 for part in (1, 2, 3, 4)} - {0})
        last = points.iloc[-1]
        assert (last.valid_loss, last.train_loss) == (record["valid_loss"], record["train_loss"])
        assert (last.train_seconds, last.train_tokens) == (total.seconds, total.tokens)
        assert last.train_flops == pytest.approx(total.flops)
        assert points.train_seconds.is_monotonic_increasing
        rates = [
            warm_and_linear(step - 1, warmup_steps=round(0.2 * steps), total_steps=steps) * ENTRY["learning_rate"]
            for step in points.step
        ]
        assert points.learning_rate.tolist() == pytest.approx(rates)


def test_a_branch_that_diverged_leaves_no_classifier_and_nothing_beside_it(study: Study, tmp_path: Path) -> None:
    out = study.finetune(tmp_path, pretrained=study.diverged(tmp_path, "seconds"))
    metrics, whole = (read_json(place / "metrics.json") for place in (out, study.classifiers))
    lost = {"status": "diverged", "steps": None, "valid_loss": None, "train_loss": None, "pretrain_valid_loss": None}
    assert metrics == whole | {"seconds": lost, "seconds-scratch": lost}
    assert {path.name for path in out.iterdir() if path.is_dir()} == {*whole} - {"seconds", "seconds-scratch"}
    assert set(pd.read_csv(out / "curve.csv").phase) == {*whole} - {"seconds", "seconds-scratch"}


def test_where_every_branch_diverged_there_are_metrics_that_say_so(study: Study, tmp_path: Path) -> None:
    lost = study.diverged(tmp_path, "seconds", "seconds-early")
    out = study.finetune(tmp_path, pretrained=lost, budgets=SECONDS)
    assert {record["status"] for record in read_json(out / "metrics.json").values()} == {"diverged"}
    assert sorted(path.name for path in out.iterdir()) == ["curve.csv", "metrics.json"]


def test_finetuning_that_diverges_is_marked_and_the_others_go_on(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, calls = CrossEntropy.__call__, []

    def explodes_once(self: CrossEntropy, model: Any, batch: Any, *, step: int) -> torch.Tensor:
        calls.append(step)
        return plain(self, model, batch, step=step) * (float("nan") if len(calls) == 3 else 1)

    monkeypatch.setattr(CrossEntropy, "__call__", explodes_once)
    out = study.finetune(tmp_path, budgets=SECONDS)
    statuses = {name: record["status"] for name, record in read_json(out / "metrics.json").items()}
    assert statuses == {"seconds": "diverged", "seconds-early": "ok", "seconds-scratch": "diverged"}
    assert f"{KEY} seconds: loss nan at step 2 of seconds; the row is marked diverged" in capsys.readouterr().out
    early = read_json(out / "metrics.json")["seconds-early"]
    assert early == read_json(study.classifiers / "metrics.json")["seconds-early"], "as if nothing had happened"


@pytest.mark.parametrize(("budget", "steps"), [("15.5 s", 1), ("10 s", 0)])
def test_a_budget_with_nothing_left_is_one_line(study: Study, tmp_path: Path, budget: str, steps: int) -> None:
    """Pretraining took 15 s."""
    with pytest.raises(StudyError) as raised:
        study.finetune(tmp_path, budgets={"seconds": budget})
    message = str(raised.value)
    after = f"after pretraining the budget {budget} pays for {steps} steps of finetuning"
    assert message == f"{KEY}: {after}; raise it, or finetune.fraction"
    assert not (tmp_path / "out").exists()


def test_a_size_that_is_not_calibrated_and_a_branch_that_is_not_there_are_named(study: Study, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="size w16x1 of study tiny is not calibrated"):
        study.finetune(tmp_path, seconds_per_step=None)
    copied = study.diverged(tmp_path)
    shutil.rmtree(copied / "seconds-early")
    with pytest.raises(StudyError, match="seconds-early: no such branch; run pretrain again"):
        study.finetune(tmp_path, pretrained=copied)


def test_without_scratch_nothing_is_finetuned_beside_a_branch(study: Study, tmp_path: Path) -> None:
    out = study.finetune(tmp_path, budgets=SECONDS, scratch=False)
    assert list(read_json(out / "metrics.json")) == ["seconds", "seconds-early"]
    assert (out / "seconds" / "model.safetensors").read_bytes() == (
        study.classifiers / "seconds" / "model.safetensors"
    ).read_bytes(), "another budget beside it changes nothing"


def test_another_seed_is_another_classifier(study: Study, tmp_path: Path) -> None:
    out = study.finetune(tmp_path, budgets=SECONDS, scratch=False, seed=1)
    name = "seconds/model.safetensors"
    assert (out / name).read_bytes() != (study.classifiers / name).read_bytes()


def test_killed_between_classifiers_it_makes_none_of_them_again(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = study.finetune(tmp_path / "whole", budgets=SECONDS)
    steps = [read_json(whole / "metrics.json")[name]["steps"] for name in ("seconds", "seconds-early")]
    calls = at_steps(monkeypatch, (steps[0] + 3,), die)
    with pytest.raises(MemoryError):
        study.finetune(tmp_path / "killed", budgets=SECONDS)
    out = study.finetune(tmp_path / "killed", budgets=SECONDS)
    assert calls == [*range(steps[0]), *range(3), *range(steps[1]), *range(steps[0])]
    for path in sorted(path for path in whole.rglob("*") if path.is_file()):
        assert (out / path.relative_to(whole)).read_bytes() == path.read_bytes(), path.name
