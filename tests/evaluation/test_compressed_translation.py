"""Models that CTranslate2 does not know as they are: decoded all the same, as what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.compression.activation_rounding import range_of, round_inputs
from pipeline.compression.candidate import Candidate
from pipeline.compression.formats import load_model, save_compressed
from pipeline.compression.methods.quanto import apply as quanto
from pipeline.compression.quanto_files import plain_model
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.evaluation.decoding import translate
from pipeline.evaluation.translation import decode_lines
from pipeline.recipes import Quanto
from tests.benches import candidate_of
from tests.candidates import NO_BENCH

SEARCH = {"beam": 2, "length_penalty": 1.0, "max_length": 12}


@pytest.fixture
def lines(corpus: PreparedCorpus) -> list[str]:
    return corpus.split("test").source_lines()[:6]


@pytest.fixture
def candidate(corpus: PreparedCorpus) -> Candidate:
    """A model of random weights far from each other, whose hypotheses no rounding error changes."""
    candidate = candidate_of(corpus)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in candidate.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return candidate


def _plain(candidate: Candidate, lines: list[str], corpus: PreparedCorpus) -> list[str]:
    return translate(candidate.model, corpus.tokenizer(), lines, engine="transformers", **SEARCH)


def test_optimum_quantos_layers(candidate: Candidate, lines: list[str], corpus: PreparedCorpus, tmp_path: Path) -> None:
    quanto(candidate, Quanto(method="quanto", bits=8), NO_BENCH)
    save_compressed(candidate, tmp_path)
    hypotheses = decode_lines(tmp_path, lines, tokenizer=corpus.tokenizer(), search=SEARCH)
    plain = plain_model(load_model(tmp_path))
    assert hypotheses == translate(plain, corpus.tokenizer(), lines, engine="transformers", **SEARCH)


def test_rounded_inputs_act_while_decoding(
    candidate: Candidate, lines: list[str], corpus: PreparedCorpus, tmp_path: Path
) -> None:
    before = _plain(candidate, lines, corpus)
    candidate.activations = {"model.decoder.layers.0.fc1": range_of(-0.5, 0.5, 2), "lm_head": range_of(-1, 1, 2)}
    round_inputs(candidate.model, candidate.activations)
    save_compressed(candidate, tmp_path)
    hypotheses = decode_lines(tmp_path, lines, tokenizer=corpus.tokenizer(), search=SEARCH)
    assert hypotheses == _plain(candidate, lines, corpus)
    assert hypotheses != before
