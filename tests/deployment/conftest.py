"""A small model in a study's form: 4-bit weights in the packed file, tokenizer, run.json; and lines to translate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.compression.candidate import Candidate
from pipeline.compression.formats import save_compressed
from pipeline.compression.methods.uniform import apply as uniform
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.deployment.sources import Source
from pipeline.models.checkpoint import model_directory
from pipeline.recipes import Uniform
from tests.benches import candidate_of
from tests.candidates import NO_BENCH

SEARCH: dict[str, Any] = {"beam": 3, "length_penalty": 1.0, "max_length": 12}
DATA: dict[str, Any] = {
    "source_lang": "en",
    "target_lang": "fr",
    "license": "CC0",
    "credit": "nobody",
    "max_tokens": 60,
}


def spread(corpus: PreparedCorpus) -> Candidate:
    """Return a candidate of random weights far from each other, whose hypotheses no rounding error changes."""
    candidate = candidate_of(corpus)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in candidate.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return candidate


def written(candidate: Candidate, path: Path, corpus: PreparedCorpus, **facts: Any) -> Source:
    """Write a candidate as a study does, and return it as what is exported."""
    run = {
        "run_id": "tiny-w32x2-s0-seconds-q4",
        "study": "tiny",
        "task": "translation",
        "seed": 0,
        "budget": "40 s",
        "match": "seconds",
        "method": "quantize",
        "recipe": "q4",
        "bits": 4,
        "sparsity": None,
        "parent_id": "tiny-w32x2-s0-seconds-fp32",
        "steps_of_recipe": [{"method": "uniform", "bits": 4, "granularity": "row", "group_size": 64, "keep": []}],
        "ledger": {"train": {"flops": 2e12, "seconds": 40.0, "steps": 80.0, "tokens": 9000.0}},
        "size": {"d_model": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 64, "vocab_size": corpus.vocab_size},
        **facts,
    }
    with model_directory(path, tokenizer=corpus.tokenizer(), run=run, corpus=DATA) as temporary:
        save_compressed(candidate, temporary)
    return Source(
        directory=path, name=run["run_id"], run=run, run_id=run["run_id"], corpus=dict(DATA), search=dict(SEARCH)
    )


@pytest.fixture(scope="session")
def four_bits(corpus: PreparedCorpus, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A model of 4-bit weights."""
    candidate = spread(corpus)
    uniform(candidate, Uniform(method="uniform", bits=4), NO_BENCH)
    return written(candidate, tmp_path_factory.mktemp("four") / "model", corpus)


@pytest.fixture(scope="session")
def lines(corpus: PreparedCorpus) -> list[str]:
    """Twenty sentences and an empty line."""
    sentences = corpus.split("test").source_lines()
    return [*sentences[:10], "", *sentences[10:20]]
