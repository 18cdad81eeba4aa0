"""What a row says of a candidate's numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from transformers.models.m2m_100 import M2M100ForConditionalGeneration

from pipeline.compression.activation_rounding import range_of
from pipeline.compression.encoding_facts import encoding_facts, quantized_tensors
from tests.candidates import compressed, untouched
from tests.classifiers import encoder

BuildModel = Callable[[str], M2M100ForConditionalGeneration]


def test_words_for_every_mixture() -> None:
    embedding = "model.shared.weight"
    assert quantized_tensors({embedding: 8, "a": 4, "b": 4}) == "matrices 4, embedding 8, norms and biases fp32"
    assert quantized_tensors({embedding: 32, "a": 3}) == "matrices 3, embedding fp32, norms and biases fp32"
    mixed = {embedding: 4, "a": 4, "b": 4, "c": 32}
    assert quantized_tensors(mixed) == "matrices 4 (1 of 3 fp32), embedding 4, norms and biases fp32"


def test_an_untouched_model_has_no_bits(build_model: BuildModel) -> None:
    facts = encoding_facts(untouched(build_model("deep")))
    assert facts.pop("quantized_tensors") == "matrices fp32, embedding fp32, norms and biases fp32"
    assert set(facts.values()) == {None}


def test_facts_of_a_mixture(build_model: BuildModel) -> None:
    candidate = compressed(
        build_model("deep"), bits=3, embedding_bits=8, keep=["fc1"], granularity="group", group_size=5
    )
    candidate.activations = {"lm_head": range_of(-1, 1, 8)}
    facts = encoding_facts(candidate)
    assert facts.pop("weight_error") == pytest.approx(np.mean(list(candidate.weight_errors.values())))
    assert facts == {
        "bits": 3,
        "embedding_bits": 8,
        "granularity": "group",
        "group_size": 5,
        "activation_bits": 8,
        "quantized_tensors": "matrices 3 (4 of 32 fp32), embedding 8, norms and biases fp32",
    }


def test_a_classifiers_words_are_its_embedding_and_its_positions_a_matrix() -> None:
    candidate = compressed(encoder(), bits=4, embedding_bits=8, keep=["classifier"])
    facts = encoding_facts(candidate)
    assert (facts["bits"], facts["embedding_bits"]) == (4, 8)
    # Positions, the type of token, two layers of six, and the head's two.
    assert facts["quantized_tensors"] == "matrices 4 (2 of 16 fp32), embedding 8, norms and biases fp32"


def test_only_the_embedding(build_model: BuildModel) -> None:
    facts = encoding_facts(compressed(build_model("deep"), embedding_bits=8))
    assert (facts["bits"], facts["embedding_bits"], facts["granularity"]) == (None, 8, "row")
