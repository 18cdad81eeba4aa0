"""Training of latent weights through projected ones: what sees which, and that a kill changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.budget import Ledger
from pipeline.corpora.batches import BatchStream
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.models.seq2seq import build
from pipeline.size import SizeSpec
from pipeline.training.loop import LoopOptions, Projection, train
from pipeline.training.objectives import CrossEntropy
from pipeline.training.pricing import step_price
from pipeline.training.state import TrainState, load_checkpoint
from pipeline.training.weights import FlatWeights
from tests.runs import at_steps, die

SIZE = SizeSpec(d_model=16, num_layers=1)
STEPS = 12


def _same(weights: FlatWeights, masks: Mapping[str, Tensor]) -> Callable[[], None]:
    return lambda: weights.master.copy_(weights.latent)


def _to_eighths(weights: FlatWeights, masks: Mapping[str, Tensor]) -> Callable[[], None]:
    return lambda: weights.master.copy_((8 * weights.latent).round() / 8)


def _start(corpus: PreparedCorpus, *, precision: str = "fp32", dropout: float = 0.1) -> TrainState:
    return TrainState.start(
        build(SIZE, vocab_size=corpus.vocab_size, dropout=dropout, seed=0),
        stream=BatchStream(corpus.split("train"), batch_tokens=300, seed=0),
        precision=precision,
        learning_rate=5e-3,
        mup_base_width=None,
        weight_decay=0.01,
        paid=Ledger(),
    )


def _train(
    state: TrainState, corpus: PreparedCorpus, projection: Projection | None, *, saved: Path | None = None
) -> list[float]:
    """Train to STEPS, a checkpoint after every step; return what validation saw of the embedding, in its grid's steps."""
    seen: list[float] = []

    def validate(model: torch.nn.Module) -> float:
        seen.append(float(model.get_parameter("model.shared.weight").detach().mul(8).frac().abs().max()))
        return 0.0

    options = LoopOptions(
        objective=CrossEntropy(label_smoothing=0.1),
        price=step_price(SIZE, vocab_size=corpus.vocab_size, seconds_per_step=1.0),
        peak_rate=5e-3,
        clip_norm=1.0,
        validate=validate,
        checkpoint_path=saved,
        checkpoint_seconds=1e-9,
        device=torch.device("cpu"),
        projection=projection,
    )
    train(state, options, phase="train", until=STEPS, schedule=lambda step: 1.0, validate_at=frozenset({STEPS}))
    return seen


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_projected_to_where_they_are_the_weights_train_as_ever(corpus: PreparedCorpus, precision: str) -> None:
    plain, projected = (_start(corpus, precision=precision) for _ in range(2))
    for state, projection in ((plain, None), (projected, _same)):
        state.masks = {"model.encoder.layers.0.fc1.weight": torch.rand(64, 16, generator=torch.Generator()) < 0.5}
        torch.manual_seed(1)
        _train(state, corpus, projection)
    assert plain.forward.weights.latent is plain.forward.weights.master
    assert projected.forward.weights.latent is not projected.forward.weights.master
    assert torch.equal(plain.forward.weights.master, projected.forward.weights.master)
    assert plain.state_dict()["latent"] is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_everything_sees_the_projected_weights_and_the_latent_ones_keep_what_is_between(
    corpus: PreparedCorpus, precision: str
) -> None:
    state = _start(corpus, precision=precision)
    assert _train(state, corpus, _to_eighths) == [0.0]
    weights = state.forward.weights
    assert not weights.master.mul(8).frac().any()
    assert torch.equal(weights.lookup("model.shared.weight"), state.model.get_parameter("model.shared.weight"))
    assert not state.forward.output_weight.float().mul(8).frac().any()
    assert weights.latent.mul(8).frac().abs().mean() > 0.1
    assert (weights.latent - weights.master).abs().max() <= 1 / 16


def test_gradients_by_projected_weights_move_the_latent_ones(corpus: PreparedCorpus) -> None:
    """Steps far below the grid's change no projected weight at once, and add up until they do."""
    state = _start(corpus, dropout=0.0)
    state.forward.weights.master.copy_((8 * state.forward.weights.master).round() / 8)
    before = state.forward.weights.master.clone()
    _train(state, corpus, _to_eighths)
    moved = (state.forward.weights.latent - before).abs()
    assert 2e-3 < moved.max() <= STEPS * 5e-3 * 1.1
    assert torch.equal(state.forward.weights.master, before) == bool((moved <= 1 / 16).all())


def test_killed_and_resumed_the_latent_weights_are_the_same(
    corpus: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _start(corpus)
    torch.manual_seed(1)
    _train(whole, corpus, _to_eighths)
    at_steps(monkeypatch, (4, 9), die)
    path = tmp_path / "progress.pt"
    torch.manual_seed(1)
    for kills in range(3):
        state = _start(corpus)
        torch.manual_seed(1)
        if path.exists():
            state.load_state_dict(load_checkpoint(path)["state"])
            assert torch.equal(state.forward.weights.latent, load_checkpoint(path)["state"]["latent"])
        if kills == 2:
            _train(state, corpus, _to_eighths, saved=path)
            break
        with pytest.raises(MemoryError):
            _train(state, corpus, _to_eighths, saved=path)
    for name in ("latent", "master"):
        assert torch.equal(getattr(state.forward.weights, name), getattr(whole.forward.weights, name))
    assert state.ledger == whole.ledger
