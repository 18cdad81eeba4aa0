"""Studies of encoders: what their YAML may say, and the entries, the models and the graph that it expands to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.calibration import Calibration
from pipeline.engine_names import CLASSIFIER_ENGINES
from pipeline.errors import StudyError
from pipeline.expansion import KINDS, Entries, expand, planned
from pipeline.expected import expected_models, models_of_run
from pipeline.graph import graph
from pipeline.params import combined
from pipeline.study import Study, load_study
from pipeline.text_corpus import EncoderCorpusSpec

CONFIG = Path("configs/mlm.yaml")
SMOKE = Path("configs/smoke_mlm.yaml")


def _data(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def _changed(folder: Path, config: Path, *path: str | int, value: Any) -> Path:
    """Write a study with another value somewhere (None: without it), and return its file."""
    data = _data(config)
    inner: Any = data
    for part in path[:-1]:
        inner = inner[part]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return file


PAIRS = _data(Path("configs/smoke.yaml"))
ENCODERS = _data(SMOKE)
FOLLOW = "sizes: architecture, positions, num_labels follow from task and corpus; leave them out"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("finetune",), None, "finetune is needed"),
        (
            ("corpus",),
            PAIRS["corpus"],
            "corpus.kind is 'package', which task masked_lm has no use for; give kind: text",
        ),
        (("task",), "translation", "corpus.kind is 'text', which task translation has no use for"),
        (("task",), "mask_lm", "task"),
        (("corpus", "kind"), "txt", "corpus.kind: one of .*'text'.* is needed"),
        (("corpus", "kind"), None, "corpus.kind: one of .*'text'.* is needed"),
        (("distill",), PAIRS["distill"], "distill.students: encoders have none yet"),
        (("sizes", 0), {"d_model": 16, "num_layers": 1, "architecture": "encoder"}, FOLLOW),
        (("sizes", 0), {"d_model": 16, "num_layers": 1, "architecture": "encoder-decoder"}, FOLLOW),
        (("sizes", 0), {"d_model": 16, "num_layers": 1, "positions": 64}, FOLLOW),
        (("sizes", 0), {"d_model": 16, "num_layers": 1, "num_labels": 2}, FOLLOW),
        (("sizes", 0), {"d_model": 16, "num_layers": 1, "positons": 64}, r"unknown key 'sizes.0.positons'; did you"),
        (("sizes", 0), {"d_model": 16, "num_layers": 1, "head_dim": 8}, "come from pruning; leave head_dim out"),
        (("sizes",), 5, "sizes: Input should be a valid list"),
        (("sizes",), {"d_model": 16}, "sizes: Input should be a valid list"),
        (("sizes", 0), "w16x1", "sizes.0: Input should be a valid dictionary"),
        (("corpus", "text", "colum"), "text", r"unknown key 'corpus\.text\.colum'; did you mean 'column'\?"),
        (("corpus", "sentences", "clases"), 2, r"unknown key 'corpus\.sentences\.clases'; did you mean 'classes'\?"),
        (("corpus", "max_token"), 2, r"unknown key 'corpus\.max_token'; did you mean 'max_tokens'\?"),
        (("corpus", "source_lang"), "en", "unknown key 'corpus.source_lang'"),
        (("corpus", "text", "valid_documents"), 0, r"corpus\.text\.valid_documents: .* greater than 0"),
        (("corpus", "text", "sha256"), None, r"corpus\.text: text of kind 'package' also needs sha256"),
        (("corpus", "sentences", "test_sentences"), None, r"corpus\.sentences: give either test_sentences"),
        (("finetune", "warmup"), 3, r"unknown key 'finetune\.warmup'; did you mean 'warmup_fraction'\?"),
        (
            ("finetune", "learning_rate", "mup_base"),
            3,
            r"unknown key 'finetune\.learning_rate\.mup_base'; did you mean 'mup_base_width'\?",
        ),
        (("finetune", "fraction"), 0.5, r"finetune\.fraction: .* less than 0.5"),
        (("finetune", "learning_rate"), {"tuned": {16: 0.01}, "mup_base_width": 32}, "not among the tuned widths"),
        (
            ("finetune", "learning_rate"),
            {"tuned": {16: 0.01}, "mup_base_width": 16},
            r"finetune\.learning_rate\.mup_base_width: size w16x1 has 16 columns a head",
        ),
        (
            ("engines", "compared"),
            ["transformers"],
            "engines.compared: transformers takes no classifier; those that do: ",
        ),
        (
            ("engines", "compared"),
            ["torch", "ctranslate2-int8"],
            "engines.compared: ctranslate2-int8 takes no classifier",
        ),
        (("engines", "compared"), ["onnxruntime-in8"], "no engine 'onnxruntime-in8'; did you mean 'onnxruntime-int8'"),
        (("report", "min_bleu"), 0.3, r"unknown key 'report\.min_bleu'"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    tmp_path: Path, path: tuple[str | int, ...], value: Any, says: str
) -> None:
    file = _changed(tmp_path, SMOKE, *path, value=value)
    with pytest.raises(StudyError, match=says) as raised:
        load_study(file)
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("finetune",), ENCODERS["finetune"], "finetune is for task: masked_lm; take it out"),
        (("corpus",), ENCODERS["corpus"], "corpus.kind is 'text', .* text is for task: masked_lm"),
        (("sizes", 0), {"d_model": 16, "num_layers": 1, "architecture": "encoder"}, FOLLOW),
        (("sizes", 0), {"d_model": 16, "num_layers": 1, "num_labels": 2}, FOLLOW),
    ],
)
def test_what_is_for_encoders_is_refused_in_a_study_of_translation(
    tmp_path: Path, path: tuple[str | int, ...], value: Any, says: str
) -> None:
    file = _changed(tmp_path, Path("configs/smoke.yaml"), *path, value=value)
    with pytest.raises(StudyError, match=says) as raised:
        load_study(file)
    assert "\n" not in str(raised.value)


def test_what_is_left_of_the_budget_must_be_worth_pretraining(tmp_path: Path) -> None:
    data = ENCODERS | {"finetune": ENCODERS["finetune"] | {"fraction": 0.45}, "recovery_fraction": 0.35}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(StudyError, match="leave pretraining less than a fifth of the budget"):
        load_study(file)


def test_without_engines_to_compare_none_are_and_every_classifiers_engine_may_be(tmp_path: Path) -> None:
    assert load_study(_changed(tmp_path, SMOKE, "engines", value=None)).engines.compared == []
    every = {"compared": list(CLASSIFIER_ENGINES)}
    assert load_study(_changed(tmp_path, SMOKE, "engines", value=every)).engines.compared == every["compared"]


@pytest.mark.parametrize(("sequence_tokens", "max_tokens"), [(32, 64), (64, 32)])
def test_sizes_have_positions_for_the_longest_sequence(tmp_path: Path, sequence_tokens: int, max_tokens: int) -> None:
    corpus = ENCODERS["corpus"] | {"sequence_tokens": sequence_tokens, "max_tokens": max_tokens}
    study = load_study(_changed(tmp_path, SMOKE, "corpus", value=corpus))
    assert {(size.architecture, size.positions, size.num_labels) for size in study.sizes} == {("encoder", 64, 0)}


@pytest.fixture(scope="module", params=[CONFIG, SMOKE], ids=lambda path: path.stem)
def study(request: pytest.FixtureRequest) -> Study:
    """A study of encoders."""
    return load_study(request.param)


def _seconds(study: Study) -> Calibration:
    """Return a calibration in which a step of every size and kind takes a time of its own."""
    sizes = [shape.key for size in study.sizes for shape in (size, study.recipe_parent(size))]
    return Calibration(
        train_step_seconds={key: 1.0 + number for number, key in enumerate(sizes)},
        finetune_step_seconds={key: 101.0 + number for number, key in enumerate(sizes)},
        qat_step_seconds={key: 201.0 + number for number, key in enumerate(sizes)},
    )


@pytest.fixture(scope="module")
def entries(study: Study) -> Entries:
    """Its entries."""
    return expand(study, _seconds(study))


def test_an_encoder_is_pretrained_on_what_finetuning_leaves(study: Study, entries: Entries) -> None:
    assert study.finetune is not None
    seconds = _seconds(study).train_step_seconds
    assert list(entries["pretrain"]) == [key for key, *_ in planned(study).runs]
    for key, size, seed in planned(study).runs:
        entry = entries["pretrain"][key]
        assert (entry["task"], entry["architecture"], entry["positions"]) == ("masked_lm", "encoder", size.positions)
        assert (entry["size"], entry["seed"]) == (size.key, seed)
        assert "num_labels" not in entry
        assert entry["finetune_fraction"] == study.finetune.fraction
        assert entry["budgets"] == study.budgets
        assert entry["seconds_per_step"] == seconds[size.key]
        assert entry["batch_tokens"] == study.training.batch_tokens
        assert entry["dropout"] == study.training.dropout


def test_every_run_is_finetuned_as_a_classifier_at_its_own_calibrated_speed(study: Study, entries: Entries) -> None:
    assert study.finetune is not None
    seconds = _seconds(study).train_step_seconds
    assert list(entries["finetune"]) == list(entries["pretrain"])
    for key, size, seed in planned(study).runs:
        entry, before = entries["finetune"][key], entries["pretrain"][key]
        assert (entry["task"], entry["num_labels"], entry["run"]) == ("classification", 2, key)
        assert (entry["size"], entry["seed"]) == (size.key, seed), "the head is no part of the run's name"
        assert {name: entry[name] for name in ("budgets", "recovery_fraction", "positions", "d_model")} == {
            name: before[name] for name in ("budgets", "recovery_fraction", "positions", "d_model")
        }
        assert entry["seconds_per_step"] == seconds[f"{size.key}c2"] != before["seconds_per_step"]
        assert entry["scratch"] is study.finetune.scratch
        for name in ("batch_tokens", "dropout", "label_smoothing", "weight_decay", "warmup_fraction"):
            assert entry[name] == getattr(study.finetune, name)
        assert entry["mup_base_width"] == study.finetune.learning_rate.mup_base_width
    rates = {entry["learning_rate"] for entry in entries["finetune"].values()}
    assert rates == {float(f"{rate:.4g}") for rate in study.finetune.learning_rate.tuned.values()}


def test_recipes_are_made_of_the_classifier_and_train_as_finetuning_does(study: Study, entries: Entries) -> None:
    made = entries["quantize"] | entries["prune"]
    assert made
    calibration = _seconds(study)
    for entry in made.values():
        size = study.size(entry["size"])
        assert entry["parent"] == f"finetune/{entry['run']}"
        assert (entry["task"], entry["num_labels"]) == ("classification", 2)
        for name in ("learning_rate", "dropout", "batch_tokens", "label_smoothing", "mup_base_width"):
            assert entry[name] == entries["finetune"][entry["run"]][name]
        for kind, by_shape in entry["seconds_per_step"].items():
            for shape in by_shape:
                assert shape.split("<-")[0].endswith("c2"), f"{kind} steps are a classifier's"
        trained = entry["seconds_per_step"].get("qat", {})
        assert all(value == calibration.qat_step_seconds[f"{size.key}c2"] for value in trained.values())


def test_later_stages_are_told_where_classifiers_lie_and_what_stands_beside_them(
    study: Study, entries: Entries
) -> None:
    assert study.finetune is not None
    name = study.name
    for entry in entries["evaluate"].values():
        assert (entry["trained_in"], entry["scratch"]) == ("finetune", True)
        assert (entry["task"], entry["resamples"]) == ("classification", study.report.resamples)
    for kind in ("engines", "time"):
        entry = entries[kind][name]
        assert (entry["trained_in"], entry["further_in"]) == ("finetune", "pretrain")
        assert (entry["task"], entry["scratch"], entry["students"]) == ("classification", True, [])
        assert "beam" not in entry
        assert expected_models(entry) == expected_models(entries["report"][name])
    assert entries["engines"][name]["compared"] == study.engines.compared
    report = entries["report"][name]
    assert (report["outputs_in"], report["trained_in"], report["task"]) == ("finetune", "finetune", "classification")
    assert (report["quality_name"], report["min_quality"]) == ("accuracy", study.report.min_quality)
    assert report["finetune_fraction"] == study.finetune.fraction
    assert set(report["recipes"]) == {recipe for family in study.recipes.values() for recipe in family.recipes}
    nothing = {"translate_train", "translate_test", "distill", "evaluate_students"}
    assert {kind for kind in KINDS if not entries[kind]} == nothing
    assert all("." not in key for kind in entries.values() for key in kind)


def test_the_corpus_is_prepared_from_both_of_its_parts(study: Study, entries: Entries) -> None:
    entry = entries["prepare"][study.name]
    assert entry["kind"] == "text"
    assert entry["text"]["column"] == "text"
    assert entry["sentences"]["classes"] == 2
    assert isinstance(study.corpus, EncoderCorpusSpec)
    assert (entry["sequence_tokens"], entry["max_tokens"]) == (study.corpus.sequence_tokens, study.corpus.max_tokens)


def test_a_classifier_of_every_run_is_expected_and_one_without_pretraining(study: Study, entries: Entries) -> None:
    report = entries["report"][study.name]
    models = expected_models(report)
    assert len({model.run_id for model in models}) == len(models)
    key = report["runs"][0]
    for match in study.budgets:
        found = {model.run_id: model for model in models if model.run_id.startswith(f"{key}-{match}-")}
        dense, scratch = (found[f"{key}-{match}-{recipe}"] for recipe in ("fp32", "scratch"))
        assert (dense.method, dense.folder) == ("none", Path("finetune", key, match))
        assert (scratch.method, scratch.folder) == ("none", Path("finetune", key, f"{match}-scratch"))
    evaluated = [model for key, entry in entries["evaluate"].items() for model in models_of_run(entry, key)]
    assert evaluated == models, "what is measured is what the report wants"


def test_without_scratch_no_model_is_expected_beside_one(tmp_path: Path) -> None:
    file = _changed(tmp_path, SMOKE, "finetune", "scratch", value=False)
    alone = expand(load_study(file), Calibration())
    report = alone["report"]["smoke_mlm"]
    assert not [model for model in expected_models(report) if model.run_id.endswith("-scratch")]
    assert {entry["scratch"] for entry in alone["finetune"].values()} == {False}


def test_a_sizes_own_dropout_is_for_pretraining_and_a_rate_at_the_edge_is_noted(tmp_path: Path) -> None:
    data = _data(SMOKE)
    data["sizes"][0]["dropout"] = 0.35
    data["finetune"]["learning_rate"]["edges"] = [16]
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    entries = expand(load_study(file), Calibration())
    key = next(iter(entries["pretrain"]))
    assert entries["pretrain"][key]["dropout"] == 0.35
    assert entries["finetune"][key]["dropout"] == data["finetune"]["dropout"]
    notes = entries["report"]["smoke_mlm"]["confounds"]
    assert any("rate of finetuning tried at d_model 16 lay at the edge" in note for note in notes)


def test_sizes_that_were_not_calibrated_say_so_with_none(study: Study) -> None:
    entries = expand(study, Calibration())
    assert {entry["seconds_per_step"] for entry in entries["finetune"].values()} == {None}
    assert {entry["seconds_per_step"] for entry in entries["pretrain"].values()} == {None}


def _filled(text: str, key: str, item: dict[str, Any]) -> str:
    """Return a path of dvc.yaml for one entry, as DVC fills it in."""
    text = text.replace("${key}", key)
    for name, value in item.items():
        text = text.replace(f"${{item.{name}}}", str(value))
    return text


def test_in_the_graph_a_stage_reads_what_an_earlier_one_writes() -> None:
    params = combined([SMOKE])
    stages = graph(params)["stages"]
    reads, writes = (
        {
            f"{kind}@{key}": {
                _filled(path if isinstance(path, str) else next(iter(path)), key, item)
                for path in stages[kind]["do"][side]
            }
            for kind in KINDS
            for key, item in params[kind].items()
        }
        for side in ("deps", "outs")
    )
    at, run = "artifacts/smoke_mlm", "smoke_mlm-w32x1-s1"
    assert writes[f"finetune@{run}"] == {f"{at}/finetune/{run}"}
    assert reads[f"finetune@{run}"] >= {f"{at}/corpus", f"{at}/pretrain/{run}"}
    assert reads[f"quantize@{run}-rtn"] >= {f"{at}/corpus", f"{at}/finetune/{run}"}
    assert writes[f"prune@{run}-magnitude"] == {f"{at}/compressed/{run}/magnitude"}
    assert reads[f"evaluate@{run}"] >= {f"{at}/finetune/{run}", f"{at}/compressed/{run}"}
    assert reads["engines@smoke_mlm"] >= {f"{at}/{kind}" for kind in ("evaluate", "finetune", "compressed")}
    assert reads["report@smoke_mlm"] >= {f"{at}/{kind}" for kind in ("pretrain", "finetune", "evaluate", "time")}
    everything = {path for outs in writes.values() for path in outs}
    for stage, paths in reads.items():
        for path in paths:
            made = not path.startswith("artifacts/") or any(
                out == path or out.startswith(f"{path}/") for out in everything
            )
            assert made, f"{stage} reads {path}, which nothing writes"
            assert "${" not in path
