"""Small real models: tied embeddings, every parameter random, an all-zero padding row; and a finetuned classifier."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers.models.m2m_100 import M2M100Config, M2M100ForConditionalGeneration

from pipeline.corpora.prepared import PreparedCorpus
from tests.classifiers import prepared_corpus
from tests.compression.finetuned import finetuned

SHAPES = {"wide": (32, 1, 2, 128, 150), "deep": (16, 2, 1, 40, 61)}  # d_model, layers, heads, ffn_dim, vocabulary

BuildModel = Callable[[str], M2M100ForConditionalGeneration]


@cache
def _built(shape: str) -> M2M100ForConditionalGeneration:
    d_model, layers, heads, ffn_dim, vocabulary = SHAPES[shape]
    config = M2M100Config(
        vocab_size=vocabulary,
        d_model=d_model,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=ffn_dim,
        decoder_ffn_dim=ffn_dim,
        max_position_embeddings=64,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        decoder_start_token_id=0,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(shape) + d_model)
        model = M2M100ForConditionalGeneration(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.2)
            model.model.shared.weight[1].zero_()
    return model.eval()


def _build(shape: str) -> M2M100ForConditionalGeneration:
    return copy.deepcopy(_built(shape))


@pytest.fixture
def build_model() -> BuildModel:
    """Return a function from a name in SHAPES to a fresh model, always the same."""
    return _build


@pytest.fixture(params=sorted(SHAPES))
def model(request: pytest.FixtureRequest) -> M2M100ForConditionalGeneration:
    """A fresh model of each shape in turn."""
    return _build(request.param)


@pytest.fixture(scope="session")
def encoder_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus for encoders, prepared."""
    return prepared_corpus(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="session")
def sentences(encoder_corpus: Path) -> PreparedCorpus:
    """Its labelled sentences."""
    return PreparedCorpus.open_task(encoder_corpus, "classification")


@pytest.fixture(scope="session")
def finetuned_run(encoder_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of these sentences, pretrained on the text beside them: the folder of its branches."""
    return finetuned(encoder_corpus, tmp_path_factory.mktemp("finetuned"))


@pytest.fixture(params=["translation", "classification"])
def each_corpus(request: pytest.FixtureRequest) -> PreparedCorpus:
    """Sentence pairs, then labelled sentences."""
    corpus: PreparedCorpus = request.getfixturevalue("corpus" if request.param == "translation" else "sentences")
    return corpus
