"""Width: one set of columns everywhere, exact on a model whose columns come in pairs, and training brings it back."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.compression.methods.width import column_importance, kept_columns, most
from pipeline.models.parts import CLASSIFIER as CLASSIFIER_PARTS
from pipeline.models.parts import ENCODER_DECODER, parts_of
from pipeline.models.seq2seq import build
from pipeline.recipes import Width
from pipeline.size import SizeSpec
from tests.compression.methods.shrunk import (
    CLASSIFIER,
    IDS,
    MASK,
    SIZE,
    SIZES,
    STEPS,
    VOCABULARY,
    applied,
    attentions,
    check_removal,
    ffns,
    logits,
    some_model,
)

STEP = partial(Width, method="width")


@pytest.mark.parametrize("task", SIZES)
@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_it_leaves_a_sound_model(fraction: float, task: str, tmp_path: Path) -> None:
    size = check_removal(lambda share: STEP(fraction=share), fraction, tmp_path, task=task).size
    assert size.is_standard
    assert size.head_dim == SIZE.head_dim
    assert size.ffn_dim == SIZE.ffn_dim


def _states(model) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        output = model.model(input_ids=IDS, attention_mask=MASK, decoder_input_ids=STEPS)
    return output.encoder_last_hidden_state, output.last_hidden_state


def test_a_column_that_copies_its_neighbour_is_not_missed() -> None:
    """Columns 2i and 2i + 1 carry the same, and only 2i is read; then half the width loses nothing.

    The wide model gets the positions of the narrow one, each twice: the widths' own differ. Two of four heads do nothing.
    """
    model = some_model()
    positions = some_model(SizeSpec(d_model=16, num_layers=1, num_heads=2)).model.encoder.embed_positions.weights
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("out_proj.weight"):
                parameter[:, :16] = 0
            axis = ENCODER_DECODER.stream_axis(name)
            if axis is None:
                continue
            copies = parameter if axis == 0 else parameter.t()
            if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "fc1.weight")):
                copies[1::2] = 0
            else:
                copies[1::2] = copies[::2]
        for side in (model.model.encoder, model.model.decoder):
            side.embed_positions.weights = positions.repeat_interleave(2, dim=1)
    half = applied(STEP(fraction=0.5), model).model
    for narrow, wide in zip(_states(half), _states(model), strict=True):
        assert torch.allclose(narrow, wide[..., ::2], atol=1e-5)
    assert torch.allclose(half.model.shared.weight, model.model.shared.weight[:, ::2] * math.sqrt(2))


def _repeat(model) -> None:
    """Let columns 2i and 2i + 1 of a classifier's stream carry the same, 2i alone be read, and two of four heads do nothing."""
    with torch.no_grad():
        for *_, out in attentions(model):
            out.weight[:, :16] = 0
        for name, parameter in model.named_parameters():
            axis = CLASSIFIER_PARTS.stream_axis(name)
            if axis is None:
                continue
            copies = parameter if axis == 0 else parameter.t()
            if axis == 1 and "_embeddings" not in name:
                copies[1::2] = 0
            else:
                copies[1::2] = copies[::2]


def test_a_classifiers_column_that_copies_another_is_not_missed_and_its_embedding_keeps_its_scale() -> None:
    model = some_model(CLASSIFIER)
    _repeat(model)
    with torch.no_grad():  # half of the head's own columns do nothing either
        silent = torch.randperm(32, generator=torch.Generator().manual_seed(2))[:16]
        model.classifier.out_proj.weight[:, silent] = 0
        model.classifier.dense.weight[silent] *= 0.1
    half = applied(STEP(fraction=0.5), model, CLASSIFIER).model
    torch.testing.assert_close(logits(half), logits(model))
    embeddings, before = half.roberta_prelayernorm.embeddings, model.roberta_prelayernorm.embeddings
    for table in ("word", "position", "token_type"):
        weight, whole = (getattr(part, f"{table}_embeddings").weight for part in (embeddings, before))
        assert torch.equal(weight, whole[:, ::2])
    loud = torch.tensor([column not in silent.tolist() for column in range(32)])
    assert torch.equal(half.classifier.dense.weight, model.classifier.dense.weight[loud][:, ::2])
    assert torch.equal(half.classifier.out_proj.weight, model.classifier.out_proj.weight[:, loud])


def test_a_classifiers_columns_are_the_most_important_of_all() -> None:
    assert most(torch.tensor([1.0, 5, 2, 2, 9, 3]), 3).tolist() == [1, 4, 5]
    assert most(torch.tensor([2.0, 2, 1, 2]), 2).tolist() == [0, 1]
    model = some_model(CLASSIFIER)
    with torch.no_grad():
        model.roberta_prelayernorm.embeddings.token_type_embeddings.weight[0, 5] = 1e6
    importance = column_importance(model)
    assert importance.mean().item() == pytest.approx(2 + 3 * 6 + 1)  # two tables, three layers, the head
    assert importance.max() < 2 * importance.min()  # one row, added everywhere alike, does not count
    weights = dict(applied(STEP(fraction=0.25), model, CLASSIFIER).model.named_parameters())
    narrow = weights["roberta_prelayernorm.embeddings.word_embeddings.weight"]
    kept = [column.tolist() in narrow.t().tolist() for column in model.get_input_embeddings().weight.t()]
    assert sum(kept) == 24


def _trained(model, steps: int, *, seed: int) -> float:
    """Train a model to copy its source; return the mean loss of the last five steps."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        ids = torch.randint(4, 40, (32, 4), generator=generator)
        shifted = torch.cat([torch.zeros(32, 1, dtype=torch.int64), ids[:, :-1]], 1)
        loss = model(input_ids=ids, decoder_input_ids=shifted, labels=ids, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-5:]) / 5


def test_training_brings_it_back_sooner_than_a_fresh_model_learns() -> None:
    size = SizeSpec(d_model=32, num_layers=1, num_heads=4)
    whole = build(size, vocab_size=VOCABULARY, seed=0)
    assert _trained(whole, 120, seed=0) < 1
    narrow = applied(STEP(fraction=0.25), whole.eval(), size)
    fresh = build(narrow.size, vocab_size=VOCABULARY, seed=0)
    assert _trained(narrow.model, 25, seed=1) < 0.5 * _trained(fresh, 25, seed=1)


@pytest.mark.parametrize("task", SIZES)
def test_every_parameter_at_the_stream_loses_the_columns(task: str) -> None:
    model = some_model(SIZES[task])
    after = dict(applied(STEP(fraction=0.25), model, SIZES[task]).model.named_parameters())
    elsewhere = [part for *inward, _ in attentions(model) for part in inward] + [first for first, _ in ffns(model)]
    biases = {id(part.bias) for part in elsewhere}
    for name, parameter in model.named_parameters():
        axis = parts_of(model).stream_axis(name)
        head = name.startswith("classifier.")
        assert head or (axis is None) == (id(parameter) in biases), name
        if axis is not None:
            assert (parameter.shape[axis], after[name].shape[axis]) == (32, 24), name
    if task == "classification":
        assert after["classifier.dense.weight"].shape == (24, 24)
        assert after["classifier.out_proj.weight"].shape == (3, 24)


def test_the_most_important_column_of_each_run_stays_and_halves_stay_apart() -> None:
    importance = torch.tensor([1.0, 5, 2, 2, 9, 3, 4, 4, 0, 1, 7, 6])
    assert kept_columns(importance, 6).tolist() == [1, 2, 4, 6, 9, 10]
    assert kept_columns(importance, 12).tolist() == list(range(12))
    assert kept_columns(importance, 8).tolist() == [0, 1, 3, 4, 6, 7, 9, 10]


def test_importance_sums_what_is_written_and_read() -> None:
    model = some_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            axis = ENCODER_DECODER.stream_axis(name)
            if axis is not None and parameter.ndim == 2:
                (parameter if axis == 0 else parameter.t())[7] = 0
    importance = column_importance(model)
    assert importance[7] == 0
    matrices = 1 + 3 * (4 + 2) + 3 * (4 + 4 + 2)  # the embedding; in every layer, of every attention and of the FFN
    assert importance.mean().item() == pytest.approx(matrices)
