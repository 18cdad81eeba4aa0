"""Heads: the smallest go, those that do nothing are not missed, and what is left trains and decodes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.compression.formats import load_model, save_compressed
from pipeline.compression.registry import METHODS
from pipeline.errors import StudyError
from pipeline.models.checkpoint import load_dense
from pipeline.recipes import Heads, Layers, Uniform
from tests.compression.methods.shrunk import SIZE, SIZES, applied, attentions, check_removal, logits, some_model

STEP = partial(Heads, method="heads")
TASKS = pytest.mark.parametrize("task", SIZES)
HEAD = 8  # columns


@TASKS
@pytest.mark.parametrize("fraction", [0.25, 0.75])
def test_it_leaves_a_sound_model(fraction: float, task: str, tmp_path: Path) -> None:
    candidate = check_removal(lambda share: STEP(fraction=share), fraction, tmp_path, task=task)
    assert not candidate.size.is_standard
    assert candidate.model.config.head_dim == HEAD


@TASKS
@pytest.mark.parametrize("bits", [32, 4])
def test_what_is_saved_is_what_is_loaded(bits: int, task: str, tmp_path: Path) -> None:
    candidate = applied(STEP(fraction=0.25), some_model(SIZES[task]), SIZES[task])
    METHODS["uniform"](candidate, Uniform(method="uniform", bits=bits), None)
    save_compressed(candidate, tmp_path)
    loaded = load_model(tmp_path)
    assert torch.equal(logits(loaded), logits(candidate.model))
    with pytest.raises(StudyError, match=r"heads were pruned.*pipeline\.compression\.formats\.load_model"):
        load_dense(tmp_path)


@TASKS
def test_heads_that_do_nothing_are_not_missed(task: str) -> None:
    model = some_model(SIZES[task])
    with torch.no_grad():
        for number, (_, _, value, out) in enumerate(attentions(model)):
            for head in (number % 4, (number + 1 + number // 4) % 4):
                columns = slice(head * HEAD, (head + 1) * HEAD)
                out.weight[:, columns] = 0
                value.weight[columns] *= 0.1
    after = applied(STEP(fraction=0.5), model, SIZES[task]).model
    assert torch.allclose(logits(after), logits(model), atol=1e-5)


@TASKS
def test_the_heads_of_smallest_magnitude_go_attention_by_attention(task: str) -> None:
    model = some_model(SIZES[task])
    after = applied(STEP(fraction=0.5), model, SIZES[task]).model
    for (*inward, out), (*new_inward, new_out) in zip(attentions(model), attentions(after), strict=True):
        magnitude = sum(part.weight.square().sum(1) for part in inward) + out.weight.square().sum(0)
        kept = magnitude.view(4, HEAD).sum(1).argsort(descending=True)[:2].sort().values
        columns = (kept.unsqueeze(1) * HEAD + torch.arange(HEAD)).flatten()
        for old, new in zip(inward, new_inward, strict=True):
            assert torch.equal(new.weight, old.weight[columns])
            assert torch.equal(new.bias, old.bias[columns])
        assert torch.equal(new_out.weight, out.weight[:, columns])
        assert torch.equal(new_out.bias, out.bias)


@TASKS
def test_it_computes_what_the_whole_does_with_those_heads_silenced(task: str) -> None:
    model = some_model(SIZES[task])
    after = applied(STEP(fraction=0.5), model, SIZES[task]).model
    with torch.no_grad():
        for (*_, out), (*_, new_out) in zip(attentions(model), attentions(after), strict=True):
            kept = [column.tolist() in new_out.weight.t().tolist() for column in out.weight.t()]
            assert sum(kept) == 2 * HEAD
            out.weight *= torch.tensor(kept)
    torch.testing.assert_close(logits(after), logits(model))


def test_heads_go_twice_and_layers_after_them() -> None:
    once = applied(STEP(fraction=0.25), some_model())
    twice = applied(Heads(method="heads", fraction=1 / 3), once.model, once.size)
    assert torch.equal(logits(twice.model), logits(applied(STEP(fraction=0.5), some_model()).model))
    fewer = applied(Layers(method="layers", fraction=1 / 3), twice.model, twice.size)
    assert fewer.size.key == "w32x2h2d8f48"
    assert fewer.model.generate(torch.tensor([[5, 2]]), max_new_tokens=3).shape[0] == 1
    assert fewer.trained_size == twice.size != SIZE
