"""Width: one set of columns everywhere, exact on a model whose columns come in pairs, and training brings it back."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.compression.methods.width import column_importance, kept_columns
from pipeline.models.parts import ENCODER_DECODER
from pipeline.models.seq2seq import build
from pipeline.recipes import Width
from pipeline.size import SizeSpec
from tests.compression.methods.shrunk import IDS, MASK, SIZE, STEPS, VOCABULARY, applied, check_removal, some_model

STEP = partial(Width, method="width")


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_it_leaves_a_sound_model(fraction: float, tmp_path: Path) -> None:
    size = check_removal(lambda share: STEP(fraction=share), fraction, tmp_path).size
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


def test_every_parameter_at_the_stream_loses_the_columns() -> None:
    model = some_model()
    after = dict(applied(STEP(fraction=0.25), model).model.named_parameters())
    for name, parameter in model.named_parameters():
        axis = ENCODER_DECODER.stream_axis(name)
        assert (axis is None) == (name.endswith(("fc1.bias", "q_proj.bias", "k_proj.bias", "v_proj.bias"))), name
        if axis is not None:
            assert (parameter.shape[axis], after[name].shape[axis]) == (32, 24), name


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
