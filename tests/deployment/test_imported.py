"""Imported models, of other architectures and with two vocabularies: exported, opened and run like the study's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.corpora.tokenizers_of import save_tokenizers
from pipeline.deployment.export import export
from pipeline.deployment.product import open_product
from pipeline.deployment.sources import find_source
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
