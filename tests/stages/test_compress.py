"""tlc compress: a recipe on a model directory of no study, from its own tokenizer to a directory that says how it was made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.compression.any_model import compress_model, entry_of, read_recipe
from pipeline.compression.formats import load_model, size_bytes, weights_file
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.corpora.tokenizer import train_tokenizer
from pipeline.corpora.tokenizers_of import save_tokenizers, source_and_target
from pipeline.errors import StudyError
from pipeline.models.architectures import save_plain
from stages import compress as command
from stages import prepare as preparation
from tests.architectures import tiny_model, write_as_import
from tests.runs import assert_same, at_steps, die

Pair = tuple[str, str]

FOUR_BITS = "[{method: uniform, bits: 4}]"
CORPUS = {
    "kind": "tsv", "path": "pairs.tsv", "source_column": 0, "target_column": 1, "source_lang": "en", "target_lang": "fr",
    "license": "CC0", "credit": "nobody", "valid_sentences": 30, "test_sentences": 50,
}  # fmt: skip


def imported(folder: Path, kind: str, source: Any, target: Any = None, **changes: Any) -> Path:
    """Write a model directory as an import does: no study, no calibration, fairseq's first token."""
    write_as_import(tiny_model(kind, vocab_size=len(source), **changes), folder)
    save_tokenizers(folder, source, target)
    record = {
        "run_id": "imported-tiny-fp32", "study": "imported", "ledger": {}, "steps": None, "budget": "not stated",
        "size": {"d_model": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 64, "vocab_size": len(source)},
        "corpus": {"source_lang": "en", "target_lang": "fr", "license": "CC-BY", "credit": "somebody"},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


@pytest.fixture
def project(
    tmp_path: Path, pairs: list[Pair], write_pairs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder to work in, with sentence pairs."""
    write_pairs(tmp_path / "pairs.tsv", pairs)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepared(model: str, *, vocab_size: int) -> Path:
    Path("corpus.yaml").write_text(yaml.safe_dump(CORPUS | {"tokenizer": model, "vocab_size": vocab_size}))
    preparation.main(study=None, file=Path("corpus.yaml"), settings=None, out=Path("corpus"))
    return Path("corpus")


def test_bits_need_no_corpus(project: Path, corpus: PreparedCorpus, capsys: pytest.CaptureFixture[str]) -> None:
    imported(project / "model", "untied", corpus.tokenizer())
    command.main(Path("model"), recipe=FOUR_BITS, to=Path("small"), corpus=None, budget=None, settings=None)
    before, after = size_bytes("model"), size_bytes("small")
    assert f"{before:,} -> {after:,} bytes" in capsys.readouterr().out
    assert before > 4 * after
    run = json.loads(Path("small/run.json").read_text())
    assert (run["parent_id"], run["run_id"]) == ("imported-tiny-fp32", "imported-tiny-fp32-uniform")
    assert (run["bits"], run["embedding_bits"], run["ledger"], run["study"]) == (4, 4, {}, "imported")
    assert run["steps_of_recipe"][0]["method"] == "uniform"
    assert "somebody" in Path("small/README.md").read_text()
    assert source_and_target("small")[0].get_vocab() == corpus.tokenizer().get_vocab()
    assert torch.isfinite(next(load_model("small").parameters())).all()
    assert not list(Path(".work/compress").iterdir())


def test_a_corpus_of_two_vocabularies_trains_and_calibrates(
    project: Path, corpus: PreparedCorpus, pairs: list[Pair], capsys: pytest.CaptureFixture[str]
) -> None:
    target = train_tokenizer((line for _, line in pairs), vocab_size=300)
    imported(project / "model", "post-norm-separate", corpus.tokenizer(), target)
    folder = prepared("model", vocab_size=300)
    found = PreparedCorpus.open(folder)
    assert found.start_id == 2
    split, (source, own) = found.split("valid"), source_and_target("model")
    assert source.decode(split.source[0].tolist()) == split.source_lines()[0]
    assert own.decode(split.target[0].tolist()) == split.target_lines()[0]
    steps = "[{method: ffn, fraction: 0.5}, {method: finetune}, {method: gptq, bits: 4, sentences: 20}]"
    command.main(
        Path("model"), recipe=steps, to=Path("small"), corpus=folder, budget="60 step",
        settings=["learning_rate=0.01", "batch_tokens=600", "precision=fp32"],
    )  # fmt: skip
    text = capsys.readouterr().out
    before, after = (
        float(number) for number in text.split("validation loss a token: ")[1].split("\n")[0].split(" -> ")
    )
    assert after < before - 0.5
    run = json.loads(Path("small/run.json").read_text())
    assert run["ledger"]["finetune"]["steps"] == 60
    assert run["ledger"]["calibrate"]["flops"] > 0
    assert run["ledger"]["finetune"]["seconds"] == 0
    assert (run["size"]["ffn_dim"], run["trained_size"]["ffn_dim"], run["size"]["vocab_size"]) == (32, 64, 300)
    of_ffn, matrices = 4 * 2 * 32 * 64, 4 * 2 * 32 * 64 + 2 * (4 + 8) * 32 * 32 + (300 + 300) * 32
    assert run["sparsity"] == pytest.approx(of_ffn / 2 / matrices, abs=1e-4)
    assert weights_file("small").name == "weights.safetensors"
    assert (Path("small") / "target" / "tokenizer.json").is_file()


def test_a_killed_call_goes_on(
    project: Path, corpus: PreparedCorpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    imported(project / "model", "post-norm", corpus.tokenizer())
    sentences = PreparedCorpus.open(prepared("model", vocab_size=300))
    recipe = read_recipe("[{method: magnitude, sparsity: 0.5, rounds: 2}, {method: uniform, bits: 4}]", studies=Path())
    entry = entry_of(Path("model"), recipe, budget="6 step", settings={"checkpoint_seconds": 1e-9, "dropout": 0.1})

    def make(out: str) -> None:
        compress_model(
            Path("model"), recipe, entry=entry, corpus=sentences, out=Path(out), work=Path("work", out),
            validate=lambda model: 0.0,
        )  # fmt: skip

    make("whole")
    calls = at_steps(monkeypatch, (5,), die)
    with pytest.raises(MemoryError):
        make("killed")
    assert not Path("killed").exists()
    make("killed")
    assert len(calls) < 12
    assert_same(Path("killed"), Path("whole"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "[{method: gptq, bits: 4}]"}, "give a prepared corpus with --corpus"),
        ({"recipe": "[{method: finetune}]"}, "such as '1000 step'"),
        ({"recipe": "[{method: finetune}]", "budget": "10 step"}, "give a prepared corpus with --corpus"),
        ({"recipe": "[{method: finetune}]", "budget": "10 s"}, "nobody has timed"),
        ({"budget": "10 step"}, "no step of uniform trains"),
        ({"recipe": "[{method: unifrom, bits: 4}]"}, "did you mean 'uniform'"),
        ({"recipe": "[{method: uniform, bits: 9}]"}, "9 bits"),
        ({"recipe": "q4"}, "STUDY/RECIPE"),
        ({"recipe": "[{method: heads, fraction: 0.3}]"}, "choose another fraction"),
        ({"recipe": "[{method: uniform, bits: 4}, {method: finetune}]"}, "cannot follow"),
        ({"to": Path("model")}, "is there already"),
        ({"model": Path("nowhere")}, "no config.json"),
        ({"settings": ["dropout=2.0"]}, "less than 1"),
        ({"settings": ["drop=0.1"]}, "did you mean 'dropout'"),
    ],
)
def test_refusals(project: Path, corpus: PreparedCorpus, changes: dict[str, Any], message: str) -> None:
    imported(project / "model", "tied", corpus.tokenizer())
    call: dict[str, Any] = {
        "model": Path("model"), "recipe": FOUR_BITS, "to": Path("small"), "corpus": None, "budget": None, "settings": None,
    } | changes  # fmt: skip
    with pytest.raises(StudyError) as fault:
        command.main(**call)
    assert message in str(fault.value)
    assert "\n" not in str(fault.value)
    assert not Path("small").exists()


def test_refusals_of_models_and_corpora(project: Path, corpus: PreparedCorpus, pairs: list[Pair]) -> None:
    def fault(model: str, *, corpus: Path | None = None, recipe: str = FOUR_BITS) -> str:
        with pytest.raises(StudyError) as found:
            command.main(Path(model), recipe=recipe, to=Path("small"), corpus=corpus, budget=None, settings=None)
        return str(found.value)

    imported(project / "uneven", "untied", corpus.tokenizer(), decoder_layers=1)
    assert "2 and 1 layers" in fault("uneven", recipe="[{method: ffn, fraction: 0.5}]")
    command.main(Path("uneven"), recipe=FOUR_BITS, to=Path("rounded"), corpus=None, budget=None, settings=None)
    assert "compressed already" in fault("rounded")
    imported(project / "model", "post-norm", corpus.tokenizer())
    calibrates = "[{method: gptq, bits: 4}]"
    assert "begin with token 0, the model's with 2" in fault("model", corpus=corpus.path, recipe=calibrates)
    other = train_tokenizer((line for _, line in pairs), vocab_size=290)
    imported(project / "other", "post-norm", other)
    assert "another source tokenizer" in fault("other", corpus=corpus.path, recipe=calibrates)
    with pytest.raises(StudyError, match=r"set corpus\.vocab_size: 290"):
        prepared("other", vocab_size=300)
    biased = tiny_model("post-norm", vocab_size=300)
    biased.final_logits_bias.add_(1)
    save_plain(biased, project / "biased")
    assert "the output has a bias" in fault("biased")
    (project / "bert").mkdir()
    (project / "bert" / "config.json").write_text('{"model_type": "bert"}')
    assert "another architecture, model type 'bert'" in fault("bert")
