"""Every engine on every shape of model: what transformers' generate answers, and torch's own probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.engines.parity import same_hypotheses
from pipeline.engines.registry import start_engine
from pipeline.engines.search import BeamSearch, Engine
from pipeline.models.seq2seq import EOS
from tests.engines.shapes import SHAPES, Case, case_of

GREEDY = BeamSearch(beam=1, length_penalty=1.0, max_length=14)
BEAM = BeamSearch(beam=4, length_penalty=1.0, max_length=14)
LINES = 64


@pytest.fixture(scope="module", params=SHAPES)
def case(request: pytest.FixtureRequest, trained: Any) -> Case:
    return case_of(trained, request.param)


def started(name: str, case: Case) -> Any:
    return start_engine(name, case.model, case.tokenizer, target_tokenizer=case.target_tokenizer)


@pytest.fixture(scope="module")
def ctranslate2(case: Case) -> Any:
    return started("ctranslate2-float32", case)


@pytest.fixture(scope="module")
def onnxruntime(case: Case) -> Any:
    return started("onnxruntime-float32", case)


def hypotheses(engine: Engine, case: Case, search: BeamSearch) -> list[list[int]]:
    """Translate some lines in batches of unlike lengths, so that there is something to pad."""
    sources = case.tokenizer(case.lines[:LINES])["input_ids"]
    handles = [handle for i in range(0, LINES, 16) for handle in engine.submit(sources[i : i + 16], search)]
    return [engine.collect(handle) for handle in handles]


@pytest.mark.parametrize("search", [GREEDY, BEAM], ids=["greedy", "beam"])
def test_the_same_hypotheses_as_generate(case: Case, ctranslate2: Any, onnxruntime: Any, search: BeamSearch) -> None:
    expected = hypotheses(started("transformers", case), case, search)
    assert len({tuple(ids) for ids in expected}) > LINES / 8  # the sources matter
    for engine in (ctranslate2, onnxruntime):
        # One hypothesis of 64 may hang on the last bit of a sum.
        assert same_hypotheses(hypotheses(engine, case, search), expected) >= 0.98


def test_torch_s_log_probabilities(case: Case, ctranslate2: Any, onnxruntime: Any) -> None:
    """Of targets that no search would find: a wrong model can agree on easy ones."""
    generator = np.random.default_rng(1)
    sources = case.tokenizer(case.lines[:20])["input_ids"]
    targets = [[*generator.integers(4, len(case.target_tokenizer), size=5).tolist(), EOS] for _ in sources]
    scored = ctranslate2.translator.score_batch(
        [[ctranslate2.source_tokens[number] for number in ids] for ids in sources],
        [case.target_tokenizer.convert_ids_to_tokens(ids[:-1]) for ids in targets],
    )
    for source, target, result in zip(sources, targets, scored, strict=True):
        inputs = {
            "input_ids": torch.tensor([source]),
            "attention_mask": torch.ones(1, len(source), dtype=torch.long),
            "decoder_input_ids": torch.tensor([[case.model.config.decoder_start_token_id, *target[:-1]]]),
        }
        with torch.inference_mode():
            expected, exported = (
                model(**inputs).logits[0].log_softmax(-1).gather(1, torch.tensor(target).unsqueeze(1))[:, 0].numpy()
                for model in (case.model, onnxruntime.model)
            )
        assert np.allclose(result.log_probs, expected, atol=1e-4)
        assert np.allclose(exported, expected, atol=1e-4)
