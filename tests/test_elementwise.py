"""The whole of a training step, matmuls and the rest, against a count of every operation that torch runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pipeline.corpora.batches import IGNORED, Batch
from pipeline.corpora.encoder_batches import EncoderBatch
from pipeline.elementwise import elementwise_flops
from pipeline.flops import Positions, train_flops
from pipeline.models.building import build
from pipeline.models.parameters import learnt_parameters
from pipeline.size import SizeSpec
from pipeline.training.encoder_forward import ReferenceEncoder
from pipeline.training.forward import ReferenceForward
from pipeline.training.objectives import CrossEntropy
from pipeline.training.pricing import padded_positions
from tests.sizes import study_sizes

MOVES = {"view", "_unsafe_view", "alias", "t", "transpose", "expand", "unsqueeze", "slice", "detach", "lift_fresh"}
MOVES |= {"clone", "copy_", "_to_copy", "index", "index_put", "index_select", "gather", "embedding", "masked_fill"}
MOVES |= {"arange", "empty_like", "full", "full_like", "new_zeros", "ones", "ones_like", "triu", "zeros"}
MOVES |= {"permute", "squeeze", "cat", "constant_pad_nd", "index_copy", "slice_backward", "zeros_like"}
MOVES |= {"mm", "bmm", "_local_scalar_dense", "stack", "index_copy_", "zero_", "nonzero", "new_full", "new_empty"}
MOVES |= {"new_empty_strided"}
"""Operations without arithmetic on elements; products are counted as matmuls."""

AN_INPUT = {"sum": 1, "mean": 1, "logsumexp": 4, "embedding_dense_backward": 1, "linalg_vector_norm": 2}
AN_OUTPUT = {
    "native_layer_norm": 8,
    "native_layer_norm_backward": 14,
    "_softmax": 5,
    "softmax": 5,
    "_softmax_backward_data": 4,
}
AN_OUTPUT |= {"lerp_": 3, "addcmul_": 3, "addcdiv_": 3, "gelu": 5, "gelu_backward": 11, "tanh_backward": 3}
"""FLOPs an element of an operation's first input or output; 1 an output element for every other operation."""


class EveryOperation(TorchDispatchMode):
    """Counts the element-wise FLOPs of whatever torch dispatches; an `addmm` adds its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.__name__.split(".")[0]
        first = result[0] if isinstance(result, tuple) else result
        if name in AN_INPUT:
            self.flops += AN_INPUT[name] * args[0].numel()
        elif name in ("index_add", "index_add_"):
            self.flops += args[3].numel()
        elif name == "mv":
            self.flops += 2 * args[0].numel()
        elif name not in MOVES and isinstance(first, torch.Tensor):
            self.flops += AN_OUTPUT.get(name, 1) * first.numel()
        return result


def _batch(vocab_size: int, *, sentences: int, source_length: int, target_length: int) -> Batch:
    """Return a batch whose every other sentence is two tokens shorter than the others."""
    target = torch.randint(4, vocab_size, (sentences, target_length))
    source_mask = torch.ones(sentences, source_length, dtype=torch.int64)
    source_mask[::2, -2:] = 0
    labels = target.clone()
    labels[::2, -2:] = -100
    return Batch(
        source=torch.randint(4, vocab_size, (sentences, source_length)),
        source_mask=source_mask,
        decoder_input=target,
        labels=labels,
        indices=torch.arange(sentences),
    )


def _encoder_batch(size: SizeSpec, vocab_size: int, *, sequences: int, length: int) -> EncoderBatch:
    """Return a batch whose every other sequence is two tokens shorter than the others, scored as the size's head needs it."""
    ids = torch.randint(5, vocab_size, (sequences, length))
    mask = torch.ones_like(ids)
    mask[::2, -2:] = 0
    scored = (torch.rand(ids.shape) < 0.15) & (mask == 1)
    classes = torch.randint(0, max(1, size.num_labels), (sequences, 1))
    return EncoderBatch(
        source=ids.masked_fill(mask == 0, 1),
        source_mask=mask,
        decoder_input=ids[:, :0],
        labels=classes if size.num_labels else ids.masked_fill(~scored, IGNORED),
        indices=torch.arange(sequences),
    )


def _step(size: SizeSpec, vocab_size: int, *, dropout: float) -> tuple[Positions, int, int]:
    """Return a typical step's positions, and the matmul and element-wise FLOPs counted on its way forward and back."""
    torch.manual_seed(0)
    model = build(size, vocab_size=vocab_size, dropout=dropout, seed=0).train()
    forward: Any
    if size.architecture == "encoder":
        batch: Batch = _encoder_batch(size, vocab_size, sequences=64, length=min(32, size.positions))
        forward, smoothing = ReferenceEncoder(model, precision="fp32"), 0.0
    else:
        batch = _batch(vocab_size, sentences=64, source_length=12, target_length=14)
        forward, smoothing = ReferenceForward(model, precision="fp32"), 0.1
    with EveryOperation() as operations, FlopCounterMode(display=False) as matmuls:
        CrossEntropy(label_smoothing=smoothing)(forward, batch, step=0).backward()
    return padded_positions(batch), matmuls.get_total_flops(), operations.flops


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    ("size", "vocab_size"),
    [
        *study_sizes(),
        (SizeSpec(d_model=64, num_layers=3, num_heads=8, ffn_dim=96), 300),
        (SizeSpec(d_model=64, num_layers=3, num_heads=2, head_dim=8), 300),
    ],
    ids=lambda value: value.key if isinstance(value, SizeSpec) else str(value),
)
def test_a_step_is_counted_matmuls_exactly_and_the_rest_to_one_percent(
    size: SizeSpec, vocab_size: int, dropout: float
) -> None:
    positions, matmul, elementwise = _step(size, vocab_size, dropout=dropout)
    ours = elementwise_flops(size, positions, vocab_size=vocab_size, dropout=dropout)
    assert train_flops(size, positions, vocab_size=vocab_size) == matmul
    assert ours["forward"] + ours["backward"] == pytest.approx(elementwise, rel=0.01)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("num_labels", [0, 3])
@pytest.mark.parametrize(
    ("size", "vocab_size"),
    [
        *study_sizes("encoder"),
        (SizeSpec(architecture="encoder", d_model=64, num_layers=3, num_heads=8, ffn_dim=96, positions=20), 300),
        (SizeSpec(architecture="encoder", d_model=64, num_layers=3, num_heads=2, head_dim=8, positions=20), 300),
    ],
    ids=lambda value: value.key if isinstance(value, SizeSpec) else str(value),
)
def test_a_step_of_an_encoder_is_counted_as_well(
    size: SizeSpec, vocab_size: int, num_labels: int, dropout: float
) -> None:
    """The biases of a classifier's rows are no part of its FLOPs, though they are a column of the matmul here."""
    size = size.changed(num_labels=num_labels)
    positions, matmul, elementwise = _step(size, vocab_size, dropout=dropout)
    ours = elementwise_flops(size, positions, vocab_size=vocab_size, dropout=dropout)
    biases = 3 * 2 * num_labels * positions.scored
    assert train_flops(size, positions, vocab_size=vocab_size) + biases == matmul
    assert ours["forward"] + ours["backward"] == pytest.approx(elementwise, rel=0.01)


def test_from_width_256_on_the_matmuls_are_the_whole_to_one_percent() -> None:
    size, vocab_size = SizeSpec(d_model=256, num_layers=2), 4000
    positions, matmul, _ = _step(size, vocab_size, dropout=0.0)
    whole = matmul + sum(elementwise_flops(size, positions, vocab_size=vocab_size, dropout=0.0).values())
    assert matmul < whole < 1.01 * matmul


@pytest.mark.parametrize(
    "size",
    [SizeSpec(d_model=32, num_layers=2)]
    + [
        SizeSpec(architecture="encoder", d_model=32, num_layers=1, positions=20, num_labels=num_labels)
        for num_labels in (0, 3)
    ],
    ids=lambda size: f"{size.architecture}-{size.key}",
)
def test_an_update_is_counted_to_one_percent(size: SizeSpec) -> None:
    model = build(size, vocab_size=1000, seed=0)
    learnt = learnt_parameters(model).values()
    for parameter in learnt:
        parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW(learnt, foreach=False, fused=False)  # fused, it is one operation
    optimizer.step()
    with EveryOperation() as operations:
        torch.nn.utils.clip_grad_norm_(learnt, 1.0, foreach=False)
        optimizer.step()
    none = Positions.padded(batch=0, source_length=0, target_length=0, scored=0)
    ours = elementwise_flops(size, none, vocab_size=1000, dropout=0.0)["update"]
    assert ours == pytest.approx(operations.flops, rel=0.01)
