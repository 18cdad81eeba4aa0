"""The parts of a training step that are not matrix products: as they are usually written, and as this engine does them.

    python benchmarks/operations.py --d-model 128

One thread, the shapes of the default study's batches (71 sentences of 14 positions, vocabulary 4000), bf16; both ways in
turns, the median of many turns each. The last line is one JSON object; a ratio is the usual time over ours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipeline.evaluation.step_seconds import ENVIRONMENT
from pipeline.models.seq2seq import build
from pipeline.progress import progress
from pipeline.size import SizeSpec
from pipeline.training import sublayers
from pipeline.training.forward import ROW_MULTIPLE, FusedForward
from pipeline.training.objectives import HeadLoss, add_at, smoothed_cross_entropy

SENTENCES, POSITIONS, VOCABULARY = 71, 14, 4000
ROWS = SENTENCES * POSITIONS
BF16 = torch.bfloat16

Pair = tuple[Callable[[], object], Callable[[], object]]
"""The usual way, and ours."""


def new_shapes(d_model: int) -> Pair:
    """A linear layer on batches of ever new sizes: as they come, and filled up to a multiple of rows."""
    weight = torch.randn(4 * d_model, d_model, dtype=BF16)
    full = torch.randn(ROWS + 4096, d_model, dtype=BF16)
    sizes, filled = count(ROWS), count(ROWS)

    def usual() -> torch.Tensor:
        return functional.linear(full[: next(sizes)], weight)

    def ours() -> torch.Tensor:
        rows = ROWS + next(filled) % 32
        return functional.linear(full[: -(-rows // ROW_MULTIPLE) * ROW_MULTIPLE], weight)

    return usual, ours


def vocabulary_loss(d_model: int) -> Pair:
    """Loss over the vocabulary with its gradients: torch's, on logits cast to fp32, and in chunks on the way forward."""
    hidden = torch.randn(ROWS, d_model, dtype=BF16, requires_grad=True)
    weight = (torch.randn(VOCABULARY, d_model) / d_model**0.5).to(BF16).requires_grad_()
    labels, every = torch.randint(VOCABULARY, (ROWS,)), torch.arange(ROWS)

    def usual() -> object:
        logits = (hidden @ weight.t()).float()
        loss = functional.cross_entropy(logits, labels, label_smoothing=0.1, reduction="sum")
        return torch.autograd.grad(loss, (hidden, weight))

    def ours() -> object:
        loss = HeadLoss.apply(hidden, weight, every, smoothed_cross_entropy(labels, 0.1))
        return torch.autograd.grad(loss, (hidden, weight))

    return usual, ours


def mark_labels(d_model: int) -> Pair:
    """Adding a value at each row's label in a matrix over the vocabulary."""
    matrix, labels = torch.rand(ROWS, VOCABULARY, dtype=BF16), torch.randint(VOCABULARY, (ROWS,))
    values = torch.full((ROWS, 1), -0.9, dtype=BF16)
    return (
        lambda: matrix.scatter_add_(1, labels.unsqueeze(1), values),
        lambda: add_at(matrix, labels, -0.9),
    )


def attention(d_model: int) -> Pair:
    """Attention without its projections, forward and backward: eager bf16 operations, and ours on split heads."""
    heads = max(1, d_model // 32)
    layout = sublayers.Layout(batch=SENTENCES, length=POSITIONS, rows=-(-ROWS // ROW_MULTIPLE) * ROW_MULTIPLE)
    merged = torch.randn(layout.rows, 3 * d_model, dtype=BF16)
    gradient = torch.ones(layout.rows, d_model, dtype=BF16)
    mask = torch.ones(POSITIONS, POSITIONS).tril_()
    blocked = torch.zeros(POSITIONS, POSITIONS).masked_fill_(mask == 0, float("-inf")).to(BF16)
    scale = (d_model // heads) ** -0.5

    def usual() -> object:
        rows = merged[:ROWS].detach().requires_grad_()
        q, k, v = rows.view(SENTENCES, POSITIONS, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(2, 3)) * scale + blocked
        out = torch.softmax(scores, -1, dtype=torch.float32).to(BF16) @ v
        out = out.transpose(1, 2).reshape(ROWS, d_model)
        return torch.autograd.grad(out, rows, gradient[:ROWS])

    def ours() -> object:
        q, k, v = sublayers._split(merged, 3, heads, layout).unbind(0)
        out, weights, sums = sublayers._attend(q.mul_(scale), k, v, mask)
        sublayers._merge(out.unsqueeze(0), heads, layout, BF16)
        parts = torch.empty(3, *q.shape)
        by_q, by_k, by_v = parts.unbind(0)
        by_out = sublayers._split(gradient, 1, heads, layout)[0]
        sublayers._attend_backward(by_out, q, k, v, out, weights, sums, by_q=by_q, by_k=by_k, by_v=by_v)
        return sublayers._merge(parts, heads, layout, BF16)

    return usual, ours


def relu(d_model: int) -> Pair:
    """ReLU in place and its gradient."""
    hidden, gradient = (torch.randn(ROWS, 4 * d_model, dtype=BF16) for _ in range(2))

    def ours() -> object:
        sublayers._relu_(hidden)
        return sublayers._relu_backward_(gradient, hidden)

    return lambda: torch.ops.aten.threshold_backward(gradient, hidden.relu_(), 0), ours


def dropout(d_model: int) -> Pair:
    """A sublayer's output added to the residual stream, with dropout, and its gradient."""
    x, gradient = torch.randn(ROWS, d_model), torch.randn(ROWS, d_model)
    usual_y = torch.randn(ROWS, d_model, dtype=BF16, requires_grad=True)
    our_y = usual_y.detach().clone()

    def usual() -> object:
        return torch.autograd.grad(x + functional.dropout(usual_y, 0.1, training=True), usual_y, gradient)

    def ours() -> object:
        _, kept = sublayers._add_residual(x, our_y, 0.1)
        return sublayers._residual_gradient(gradient, kept, 0.1, BF16)

    return usual, ours


def update(d_model: int) -> Pair:
    """From gradients to weights that can be multiplied: clipping, AdamW, casts; tensor by tensor, and flat."""
    size = SizeSpec(d_model=d_model, num_layers=2)
    plain: Any = build(size, vocab_size=VOCABULARY, seed=0)
    fused: Any = FusedForward(build(size, vocab_size=VOCABULARY, seed=0), precision="bf16")
    parameters = list(plain.parameters())
    theirs = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    mine = fused.weights.adamw(learning_rate=1e-4, weight_decay=0.01)
    leaves = [*fused.weights._leaves.values(), fused.weights.lookup("model.shared.weight")]

    def usual() -> object:
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter, dtype=BF16).float()  # what autocast's backward does
        nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        theirs.step()
        return [parameter.to(BF16) for parameter in parameters if parameter.ndim == 2]

    def ours() -> None:
        for leaf in leaves:
            leaf.grad = torch.ones_like(leaf)
        fused.weights.gather_gradient()
        fused.weights.clip(1.0)
        mine.step()
        fused.weights.refresh()

    return usual, ours


OPERATIONS: dict[str, Callable[[int], Pair]] = {
    "linear layer, new shapes": new_shapes,
    "loss over the vocabulary": vocabulary_loss,
    "marking labels": mark_labels,
    "attention": attention,
    "ReLU": relu,
    "dropout": dropout,
    "update and casts": update,
}


def seconds(ways: Pair, rounds: int) -> tuple[float, float]:
    """Return the median seconds of the usual way and of ours, taken in turns after one of warm-up."""
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for way, times in zip(ways, taken, strict=True):
            started = time.perf_counter()
            way()
            if turn:
                times.append(time.perf_counter() - started)
    return median(taken[0]), median(taken[1])


def measured(d_model: int, rounds: int) -> Iterator[tuple[str, float, float]]:
    """Yield every operation's name and its seconds both ways."""
    for name, prepare in progress(OPERATIONS.items(), desc=f"d_model {d_model}", unit="operation"):
        torch.manual_seed(0)
        yield name, *seconds(prepare(d_model), rounds)


def main() -> None:
    """Measure, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):  # glibc reads them at a start
        os.environ.update(ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    torch.set_num_threads(1)
    rows = list(measured(options.d_model, options.rounds))
    print(f"{'':28}{'usual':>10}{'ours':>10}{'ratio':>8}")
    for name, usual, ours in rows:
        print(f"{name:28}{usual * 1e6:>7,.0f} us{ours * 1e6:>7,.0f} us{usual / ours:>7.1f}x")
    record = {
        "benchmark": Path(__file__).stem,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "unit": "operations a second",
        "ours": {name: 1 / ours for name, _, ours in rows},
        "peers": {"usual": {name: 1 / usual for name, usual, _ in rows}},
        "ratio": {"usual": {name: usual / ours for name, usual, ours in rows}},
        "equal": f"d_model {options.d_model}, {SENTENCES} x {POSITIONS} positions, vocabulary {VOCABULARY}, bf16, one thread",
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
