"""Imported models, of other architectures and with two vocabularies: exported, opened and run like the study's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.corpora.tokenizers_of import save_tokenizers
from pipeline.deployment.export import export
from pipeline.deployment.imports import STUDY
from pipeline.deployment.product import open_product
from pipeline.deployment.sources import find_source
from pipeline.models import fairseq_import
from tests.architectures import tiny_model, write_as_import
from tests.trained import word_tokenizer


@pytest.fixture(params=["untied", "post-norm", "post-norm-separate"])
def imported(request: pytest.FixtureRequest, corpus: PreparedCorpus, tmp_path: Path) -> Path:
    """A model directory as an import writes it; where vocabularies are separate, the target's is one of whole words."""
    model = tiny_model(request.param, vocab_size=corpus.vocab_size)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.4)  # far from each other, so that sources are told apart
    directory = write_as_import(model, tmp_path / "imported")
    target = word_tokenizer(corpus.vocab_size - 4) if request.param.endswith("separate") else None
    save_tokenizers(directory, corpus.tokenizer(), target)
    return directory


def test_an_imported_model_is_exported_and_run(imported: Path, lines: list[str], tmp_path: Path) -> None:
    reference = open_product(imported, engine="transformers")
    search = reference.search_with(max_length=20)
    expected = [result.text for result in reference.translate(lines, search)]
    assert len(set(expected)) > 3
    for form in ("ctranslate2-float32", "transformers", "packed"):
        out = tmp_path / form
        export(find_source(str(imported)), out, form=form)
        product = open_product(out)
        assert [result.text for result in product.translate(lines, search)] == expected
        assert product.positions == 128
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "transformers").config.model_type in ("m2m_100", "marian")

    card = (tmp_path / "ctranslate2-float32" / "README.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)\n```", card, re.S)
    assert found is not None
    code = found[1].replace("How are you?", lines[0]).replace("max_decoding_length=80", "max_decoding_length=20")
    command = [sys.executable, "-I", "-c", code]
    answer = subprocess.run(command, cwd=tmp_path / "ctranslate2-float32", capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == expected[0]


RUN: dict[str, Any] = {
    "run_id": "imported-w32x2-fp32",
    "study": "imported",
    "budget": "not stated",
    "method": "none",
    "recipe": "fp32",
    "seed": 1,
    "bits": None,
    "sparsity": None,
    "parent_id": None,
    "ledger": {},
    "steps": 700,
    "imported": {
        "program": "fairseq",
        "arch": "transformer",
        "checkpoint": "checkpoint_best.pt",
        "dictionaries": ["dict.en.txt"],
        "joining": "subword_nmt",
    },
    "corpus": {
        "source_lang": "not stated",
        "target_lang": "not stated",
        "license": "not stated",
        "credit": "not stated",
    },
}
"""As an import writes it of a checkpoint that says little of itself."""


def _card(corpus: PreparedCorpus, folder: Path, run: dict[str, Any]) -> str:
    directory = write_as_import(tiny_model("untied", vocab_size=corpus.vocab_size), folder / "model")
    save_tokenizers(directory, corpus.tokenizer())
    (directory / "run.json").write_text(json.dumps(run))
    export(find_source(str(directory)), folder / "out")
    assert not open_product(folder / "out").nfc
    return (folder / "out" / "README.md").read_text(encoding="utf-8")


def test_an_import_s_card_says_what_text_it_takes_and_nothing_that_nobody_stated(
    corpus: PreparedCorpus, tmp_path: Path
) -> None:
    assert STUDY == fairseq_import.STUDY
    card = _card(corpus, tmp_path, RUN)
    assert "as the model was trained on it: units with @@ (subword-nmt) between spaces; nothing here does that" in card
    assert "Translations come out with their units joined" in card
    assert "- imported from fairseq: `checkpoint_best.pt` (transformer) after 700 updates" in card
    assert "A model that translates: width 32" in card
    for wrong in ("not stated", "None", "NFC", "matched", "budget", "study", "trained, not compressed", "license"):
        assert wrong not in card.replace("no row of a study's table", ""), wrong


def test_what_was_stated_of_an_import_is_said(corpus: PreparedCorpus, tmp_path: Path) -> None:
    data = {"source_lang": "en", "target_lang": "de", "license": "CC0", "credit": "not stated"}
    separate = RUN["imported"] | {"dictionaries": ["dict.en.txt", "dict.de.txt"], "joining": "none"}
    card = _card(corpus, tmp_path, RUN | {"corpus": data, "imported": separate})
    assert "A model that translates from en to de: width 32" in card
    assert "license_name: CC0" in card
    assert "Licence of the training data: CC0. Credit: not stated." in card
    assert "as the model was trained on it; nothing here does that" in card
    assert "Translations come out as they are." in card


def test_a_compressed_import_is_still_one(corpus: PreparedCorpus, tmp_path: Path) -> None:
    """`tlc compress` keeps the study's name alone."""
    entry = {
        "entry": {"counts_seconds": False},
        "match": "steps",
        "steps_of_recipe": [{"method": "uniform", "bits": 4}],
    }
    run = {name: value for name, value in RUN.items() if name != "imported"} | entry | {"recipe": "uniform", "bits": 4}
    card = _card(corpus, tmp_path, run)
    assert "Text must come in tokenised and split into units as the model was trained on it; nothing" in card
    assert "uniform (bits 4)" in card
    assert not any(wrong in card for wrong in ("not stated", "NFC", "matched in"))
