"""Checkpoints: anybody's program loads them, damage is named, ties are kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.models.checkpoint import load_dense, read_run, save_dense
from pipeline.models.seq2seq import build, set_dropout
from pipeline.size import SizeSpec

SIZES = [SizeSpec(d_model=16, num_layers=2, num_heads=2), SizeSpec(d_model=32, num_layers=1, ffn_dim=48)]

STRANGER = """
import json, sys, torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
model = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
batch = tokenizer("the house", return_tensors="pt")
with torch.no_grad():
    logits = model(**batch, decoder_input_ids=torch.tensor([[0, 5, 6]])).logits
generated = model.generate(**batch, max_new_tokens=4)
print(json.dumps({"logits": logits.flatten().tolist(), "tied": model.lm_head.weight is model.model.shared.weight,
                  "start": generated[0, 0].item(), "ours": any(name.startswith(("pipeline", "stages")) for name in sys.modules)}))
"""


def _run(size: SizeSpec, vocab_size: int) -> dict[str, Any]:
    shape = {
        "d_model": size.d_model,
        "num_layers": size.num_layers,
        "num_heads": size.num_heads,
        "ffn_dim": size.ffn_dim,
    }
    return {
        "run_id": "tiny-fp32",
        "study": "tiny",
        "task": "translation",
        "size": shape | {"vocab_size": vocab_size},
        "budget": "1 s",
        "method": "none",
        "recipe": "fp32",
        "seed": 0,
    }


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.key)
def test_a_program_that_never_heard_of_us_loads_it(size: SizeSpec, corpus: PreparedCorpus, tmp_path: Path) -> None:
    model = build(size, vocab_size=corpus.vocab_size, seed=0).eval()
    path = tmp_path / "model"
    save_dense(model, path, tokenizer=corpus.tokenizer(), run=_run(size, corpus.vocab_size), corpus=corpus.card)
    command = [sys.executable, "-c", STRANGER, str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    seen = json.loads(answer.stdout.splitlines()[-1])
    batch = corpus.tokenizer()("the house", return_tensors="pt")
    with torch.no_grad():
        ours = load_dense(path)(**batch, decoder_input_ids=torch.tensor([[0, 5, 6]])).logits
        original = model(**batch, decoder_input_ids=torch.tensor([[0, 5, 6]])).logits
    assert torch.equal(ours, original)
    assert torch.allclose(torch.tensor(seen["logits"]), original.flatten(), atol=1e-5)
    assert seen["tied"]
    assert seen["start"] == 0
    assert not seen["ours"]
    assert read_run(path)["versions"]["torch"] == torch.__version__
    card = (path / "README.md").read_text(encoding="utf-8")
    assert corpus.card["license"] in card
    assert corpus.card["credit"] in card


def test_a_damaged_checkpoint_is_one_clear_line(corpus: PreparedCorpus, tmp_path: Path) -> None:
    path = tmp_path / "model"
    model = build(SIZES[0], vocab_size=corpus.vocab_size, seed=0)
    save_dense(model, path, tokenizer=corpus.tokenizer(), run=_run(SIZES[0], corpus.vocab_size), corpus=corpus.card)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(StudyError, match=r"model\.safetensors: the checkpoint is damaged"):
        load_dense(path)
    weights.unlink()
    with pytest.raises(StudyError, match="no such file"):
        load_dense(path)


def test_the_same_model_gives_the_same_bytes(corpus: PreparedCorpus, tmp_path: Path) -> None:
    for name in ("a", "b"):
        model = build(SIZES[0], vocab_size=corpus.vocab_size, seed=0)
        run = _run(SIZES[0], corpus.vocab_size)
        save_dense(model, tmp_path / name, tokenizer=corpus.tokenizer(), run=run, corpus=corpus.card)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_dropout_is_set_on_layers_and_never_on_attention() -> None:
    model = build(SIZES[0], vocab_size=40, dropout=0.3)
    layers = [*model.model.encoder.layers, *model.model.decoder.layers]
    assert {layer.dropout for layer in layers} == {0.3}
    set_dropout(model, 0.0)
    assert {layer.dropout for layer in layers} == {0.0}
    assert {layer.self_attn.dropout for layer in layers} == {0.0}
