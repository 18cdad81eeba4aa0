"""Our beam search: transformers' hypotheses, and those of a plain search without any cache, batch by batch and alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.engines.beam_search import beam_search, best_continuations
from pipeline.engines.search import BeamSearch
from pipeline.engines.transformers_engine import TransformersEngine
from pipeline.models.seq2seq import BOS, EOS, PAD

SEARCHES = [
    *((beam, 1.0, 40) for beam in range(1, 9)),
    *((4, penalty, 40) for penalty in (0.0, 0.6, 2.0, -1.0)),
    *((beam, 1.0, length) for beam in (1, 4) for length in (1, 2, 5)),
]
SPECIAL = {"start": BOS, "pad": PAD, "end": EOS, "never": [BOS, PAD]}


def encoded(trained: Any, count: int) -> list[list[int]]:
    ids: list[list[int]] = trained.tokenizer(trained.lines[:count])["input_ids"]
    return ids


def without_end(ids: list[int]) -> list[int]:
    return ids[:-1] if ids[-1] == EOS else ids


@pytest.mark.parametrize(("beam", "length_penalty", "max_length"), SEARCHES)
def test_hypotheses_are_those_of_transformers(trained, beam: int, length_penalty: float, max_length: int) -> None:
    search = BeamSearch(beam=beam, length_penalty=length_penalty, max_length=max_length)
    sources = encoded(trained, 300)
    reference = TransformersEngine(trained.model, trained.tokenizer)
    theirs = [reference.collect(handle) for handle in reference.submit(sources, search)]
    ours = [without_end(ids) for ids in beam_search(trained.model, sources, search, **SPECIAL)]
    assert np.mean([a == b for a, b in zip(ours, theirs, strict=True)]) >= 0.99
    assert max(map(len, ours)) <= max_length


def plain_search(model: Any, source: list[int], search: BeamSearch) -> list[int]:
    """Beam search as it is described, over log-probabilities that are computed anew from all tokens each time."""
    beams, finished = [(0.0, [BOS])], []
    for length in range(1, search.max_length + 1):
        candidates = []
        for score, tokens in beams:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
            for token in [BOS, PAD, EOS] if length == 1 else [BOS, PAD]:
                logits[token] = -torch.inf
            logs = logits.double().log_softmax(0).tolist()
            candidates += [(score + log, [*tokens, token]) for token, log in enumerate(logs)]
        candidates.sort(key=lambda candidate: -candidate[0])
        candidates = candidates[: 2 * search.beam]
        ended = [tokens[-1] == EOS or length == search.max_length for _, tokens in candidates]
        for (score, tokens), end in zip(candidates[: search.beam], ended, strict=False):
            if end:
                finished.append((score / length**search.length_penalty, tokens[1:]))
        if len(finished) >= search.beam:
            break
        beams = [candidate for candidate, end in zip(candidates, ended, strict=True) if not end][: search.beam]
    return max(finished)[1]


@pytest.mark.parametrize(
    ("beam", "length_penalty", "max_length"), [(1, 1.0, 20), (3, 1.0, 20), (5, 0.0, 4), (4, -1.0, 20)]
)
def test_hypotheses_are_those_of_a_plain_search(trained, beam: int, length_penalty: float, max_length: int) -> None:
    search = BeamSearch(beam=beam, length_penalty=length_penalty, max_length=max_length)
    sources = encoded(trained, 25)
    ours = beam_search(trained.model, sources, search, **SPECIAL)
    assert ours == [plain_search(trained.model, source, search) for source in sources]


def test_a_hypothesis_does_not_depend_on_its_batch(trained) -> None:
    search = BeamSearch(beam=4, length_penalty=1.0, max_length=60)
    sources = encoded(trained, 30)
    sources += [[5 + i % 40 for i in range(length)] + [EOS] for length in (1, 40, 2, 25)]  # of very unequal lengths
    together = beam_search(trained.model, sources, search, **SPECIAL)
    alone = [beam_search(trained.model, [source], search, **SPECIAL)[0] for source in sources]
    assert np.mean([a == b for a, b in zip(together, alone, strict=True)]) >= 0.97
    turned = beam_search(trained.model, sources[::-1], search, **SPECIAL)[::-1]
    assert np.mean([a == b for a, b in zip(together, turned, strict=True)]) >= 0.97


def test_caches_grow_with_the_hypotheses(trained) -> None:
    """A model that never ends: every step of a search longer than the caches' first room."""
    with torch.no_grad():
        weight = trained.model.lm_head.weight
        kept = weight[EOS].clone()
        weight[EOS] = -trained.model.model.decoder.layer_norm.bias * 1e4
    try:
        search = BeamSearch(beam=3, length_penalty=1.0, max_length=90)
        sources = encoded(trained, 3)
        reference = TransformersEngine(trained.model, trained.tokenizer)
        theirs = [reference.collect(handle) for handle in reference.submit(sources, search)]
        ours = beam_search(trained.model, sources, search, **SPECIAL)
    finally:
        with torch.no_grad():
            weight[EOS] = kept
    assert max(map(len, ours)) > 32
    assert [without_end(ids) for ids in ours] == theirs


@pytest.mark.parametrize("vocabulary", [8, 9, 64, 250, 1001, 4000])
def test_the_best_continuations_are_those_of_a_full_sort(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(5, 3, vocabulary, generator=generator) * 3
    logits[:, :, [0, 1]] = -torch.inf
    scores = -torch.rand(5, 3, generator=generator) * 4

    def found(values: Tensor, scratch: Tensor | None) -> None:
        top, beams, tokens = best_continuations(logits.clone(), scores, 6, scratch)
        expected, places = (values + scores.unsqueeze(2)).flatten(1).topk(6, dim=1)
        torch.testing.assert_close(top, expected)
        assert torch.equal(beams * vocabulary + tokens, places)

    found(logits.log_softmax(2), torch.empty_like(logits))
    found(logits, None)
