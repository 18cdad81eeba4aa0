"""Encoders on disk: anybody's program loads either head, the tied matrix is there once, and what they are not is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.models.building import build, config_of, set_dropout
from pipeline.models.checkpoint import load_dense, read_run, save_dense
from pipeline.models.encoder import classifier_of
from pipeline.models.parameters import ENCODER_TABLE, learnt_parameters
from pipeline.models.pruned import shape_of
from pipeline.size import SizeSpec
from tests.classifiers import prepared_corpus

MASKED_LM = SizeSpec(architecture="encoder", d_model=32, num_layers=2, num_heads=4, ffn_dim=48, positions=48)
CLASSIFIER = MASKED_LM.changed(num_labels=3)
TASKS = {"masked_lm": MASKED_LM, "classification": CLASSIFIER}
TEXT = "the film , everyone said in May , is superb ."

STRANGER = """
import json, sys, torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer
seen = {}
for task, kind in (("masked_lm", AutoModelForMaskedLM), ("classification", AutoModelForSequenceClassification)):
    model, told = kind.from_pretrained(task, output_loading_info=True)
    batch = AutoTokenizer.from_pretrained(task)([sys.argv[1], "dull"], return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    tied = bias = None
    if task == "masked_lm":
        tied = model.lm_head.decoder.weight is model.get_input_embeddings().weight
        bias = model.lm_head.decoder.bias.abs().sum().item()
    seen[task] = {"logits": logits.flatten().tolist(), "ids": batch["input_ids"].tolist(), "tied": tied, "bias": bias,
                  "kind": type(model).__name__, "told": {name: sorted(map(str, keys)) for name, keys in told.items()}}
seen["ours"] = any(name.startswith(("pipeline", "stages")) for name in sys.modules)
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> PreparedCorpus:
    """Labelled sentences, for their tokenizer and their card."""
    return PreparedCorpus.open_task(prepared_corpus(tmp_path_factory.mktemp("encoders")), "classification")


def _built(size: SizeSpec, vocab_size: int) -> Any:
    """Return an encoder that is nowhere as it was begun, but for the output's bias, which is not learnt."""
    model: Any = build(size, vocab_size=vocab_size, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in learnt_parameters(model).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def _save(model: Any, path: Path, corpus: PreparedCorpus, *, task: str) -> Path:
    run = {
        "run_id": "tiny-fp32",
        "study": "tiny",
        "task": task,
        "size": TASKS[task].record() | {"vocab_size": corpus.vocab_size},
        "budget": "1 s",
        "method": "none",
        "recipe": "fp32",
        "seed": 0,
    }
    save_dense(model, path, tokenizer=corpus.tokenizer(), run=run, corpus=corpus.card)
    return path


def test_a_program_that_never_heard_of_us_loads_either_head(sentences: PreparedCorpus, tmp_path: Path) -> None:
    models = {task: _built(size, sentences.vocab_size) for task, size in TASKS.items()}
    paths = {task: _save(model, tmp_path / task, sentences, task=task) for task, model in models.items()}
    command = [sys.executable, "-c", STRANGER, TEXT]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    everything = json.loads(answer.stdout.splitlines()[-1])
    assert not everything["ours"]
    batch = sentences.tokenizer()([TEXT, "dull"], return_tensors="pt", padding=True)
    assert (batch["input_ids"][0, 0], batch["input_ids"][0, -1]) == (0, 2)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    for task, model in models.items():
        seen = everything[task]
        assert seen["ids"] == batch["input_ids"].tolist()
        with torch.no_grad():
            original, ours = model(**inputs).logits, load_dense(paths[task])(**inputs).logits
        assert torch.equal(ours, original)
        assert torch.allclose(torch.tensor(seen["logits"]), original.flatten(), atol=1e-5)
        assert not any(seen["told"].values()), "nothing is missing, left over, or of another shape"
        head = "MaskedLM" if task == "masked_lm" else "SequenceClassification"
        assert seen["kind"] == f"RobertaPreLayerNormFor{head}"
        assert read_run(paths[task])["versions"]["torch"] == torch.__version__
    assert everything["masked_lm"]["tied"]
    assert everything["masked_lm"]["bias"] == 0


def test_the_tied_matrix_and_the_bias_that_is_0_are_in_the_file_once(sentences: PreparedCorpus, tmp_path: Path) -> None:
    path = _save(_built(MASKED_LM, sentences.vocab_size), tmp_path / "model", sentences, task="masked_lm")
    weights = load_file(path / "model.safetensors")
    of_words = [name for name, weight in weights.items() if sentences.vocab_size in weight.shape]
    assert sorted(of_words) == ["lm_head.bias", f"{ENCODER_TABLE}.weight"]
    assert not weights["lm_head.bias"].any()
    loaded: Any = load_dense(path)
    assert loaded.lm_head.decoder.weight is loaded.get_input_embeddings().weight
    assert "lm_head.bias" not in learnt_parameters(loaded)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_loaded_has_the_size_that_was_saved_and_the_same_bytes_again(
    task: str, sentences: PreparedCorpus, tmp_path: Path
) -> None:
    first = _save(_built(TASKS[task], sentences.vocab_size), tmp_path / "first", sentences, task=task)
    loaded = load_dense(first)
    assert not loaded.training
    assert shape_of(loaded.config) == TASKS[task]
    again = _save(loaded, tmp_path / "again", sentences, task=task)
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (again / name).read_bytes() == (first / name).read_bytes(), name


@pytest.mark.parametrize(
    ("task", "is_a", "loader"),
    [
        ("masked_lm", "An encoder that predicts masked tokens", "AutoModelForMaskedLM"),
        ("classification", "An encoder that tells sentences of 3 classes apart", "AutoModelForSequenceClassification"),
    ],
)
def test_the_card_says_what_the_encoder_does_and_what_loads_it(
    task: str, is_a: str, loader: str, sentences: PreparedCorpus, tmp_path: Path
) -> None:
    path = _save(_built(TASKS[task], sentences.vocab_size), tmp_path / "model", sentences, task=task)
    card = (path / "README.md").read_text(encoding="utf-8")
    shape = f"width 32, 2 layers, 4 heads, FFN 48, vocabulary {sentences.vocab_size}."
    assert f"{is_a}: {shape}" in card
    assert f"Load it with `{loader}.from_pretrained(directory)`." in card
    assert sentences.card["license"] in card
    assert sentences.card["credit"] in card


def test_a_classifier_has_the_pretrained_encoder_and_nothing_of_its_head(
    sentences: PreparedCorpus, tmp_path: Path
) -> None:
    path = _save(_built(MASKED_LM, sentences.vocab_size), tmp_path / "model", sentences, task="masked_lm")
    pretrained: Any = load_dense(path)
    shape: dict[str, Any] = {"vocab_size": sentences.vocab_size, "dropout": 0.2, "seed": 5}
    classifier: Any = classifier_of(pretrained, CLASSIFIER, **shape)
    kept = pretrained.roberta_prelayernorm.state_dict()
    found = classifier.state_dict()
    assert all(torch.equal(found[f"roberta_prelayernorm.{name}"], weight) for name, weight in kept.items())
    drawn = build(CLASSIFIER, **shape).state_dict()
    assert {name for name in found if torch.equal(found[name], drawn[name])} >= {
        name for name in found if name.startswith("classifier.")
    }
    assert {name for name in found if name.startswith(("classifier.", "lm_head."))} == {
        f"classifier.{part}.{kind}" for part in ("dense", "out_proj") for kind in ("weight", "bias")
    }
    with torch.no_grad():
        classifier.get_input_embeddings().weight.add_(1)
    assert torch.equal(
        pretrained.roberta_prelayernorm.state_dict()["embeddings.word_embeddings.weight"],
        kept["embeddings.word_embeddings.weight"],
    )
    assert classifier.classifier.dropout.p == 0.2


@pytest.mark.parametrize("size", [MASKED_LM, CLASSIFIER], ids=lambda size: size.key)
def test_dropout_is_set_everywhere_but_on_attention(size: SizeSpec) -> None:
    model: Any = build(size, vocab_size=40, dropout=0.3, seed=0)

    def rates() -> dict[str, float]:
        return {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}

    attention = {name for name in rates() if name.endswith("attention.self.dropout")}
    assert len(attention) == 2
    assert len(rates()) - len(attention) >= 5
    for rate in (0.3, 0.1, 0.0):
        set_dropout(model, rate)
        assert {value for name, value in rates().items() if name not in attention} == {rate}
        assert {rates()[name] for name in attention} == {0.0}
        assert model.config.hidden_dropout_prob == rate
        assert model.config.attention_probs_dropout_prob == 0.0
    assert config_of(size, vocab_size=40).hidden_dropout_prob == 0.0


def test_a_freshly_built_encoder_is_undecided_and_knows_where_words_stand() -> None:
    masked: Any = build(MASKED_LM, vocab_size=40, seed=0)
    embeddings = masked.roberta_prelayernorm.embeddings
    assert embeddings.position_embeddings.weight.shape == (48 + 2, 32)
    assert not embeddings.word_embeddings.weight[1].any()
    used = embeddings.position_embeddings.weight[2:].detach()
    torch.testing.assert_close(used.norm(dim=1), torch.full((48,), used[0].norm().item()), rtol=1e-4, atol=0)
    assert len({tuple(row.tolist()) for row in used}) == 48
    classifier: Any = build(CLASSIFIER, vocab_size=40, seed=0).eval()
    with torch.no_grad():
        shares = classifier(input_ids=torch.randint(5, 40, (16, 9))).logits.softmax(dim=1)
    assert (shares - 1 / 3).abs().max() < 0.1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"model_type": "roberta"},
            "a checkpoint of another architecture, model type 'roberta', not m2m_100 or marian or roberta-prelayernorm",
        ),
        (
            {"architectures": ["RobertaPreLayerNormForTokenClassification"]},
            "a roberta-prelayernorm model with another head, RobertaPreLayerNormForTokenClassification, not "
            "RobertaPreLayerNormForMaskedLM or RobertaPreLayerNormForSequenceClassification",
        ),
        ({"head_dim": 4}, "its attention heads were pruned, a shape that transformers cannot say"),
    ],
)
def test_another_architecture_or_head_is_one_clear_line(
    changes: dict[str, Any], says: str, sentences: PreparedCorpus, tmp_path: Path
) -> None:
    path = _save(_built(MASKED_LM, sentences.vocab_size), tmp_path / "model", sentences, task="masked_lm")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    with pytest.raises(StudyError) as raised:
        load_dense(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert says in message
    assert "\n" not in message


def test_a_head_that_the_file_has_not_is_damage(sentences: PreparedCorpus, tmp_path: Path) -> None:
    """A masked LM's weights under a classifier's configuration: transformers would draw the head at random."""
    path = _save(_built(MASKED_LM, sentences.vocab_size), tmp_path / "model", sentences, task="masked_lm")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = ["RobertaPreLayerNormForSequenceClassification"]
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(StudyError, match=r"model\.safetensors: .*it has no classifier\.dense\.weight") as raised:
        load_dense(path)
    assert "\n" not in str(raised.value)
