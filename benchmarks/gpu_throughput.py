"""What share of a GPU's measured bf16 matmul speed a training step reaches, plain and compiled.

    python benchmarks/gpu_throughput.py

The speed of one large square bf16 product is measured first, on the same GPU in the same minute: the share is of that, not
of a data sheet. A step is `pipeline.training.loop`'s; its FLOPs are those that the ledger charges (6 a weight and token and
attention, no recomputation). The record goes to benchmarks/results/gpu_throughput.json, and is the last line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from pipeline.corpora.batches import Batch
from pipeline.files import write_json
from pipeline.flops import train_flops
from pipeline.models.seq2seq import build
from pipeline.size import SizeSpec
from pipeline.training.devices import finish_work
from pipeline.training.forward import FusedForward, ReferenceForward
from pipeline.training.objectives import CrossEntropy
from pipeline.training.pricing import padded_positions

VOCABULARY, LENGTH, LAYERS, SMOOTHING = 32000, 128, 6, 0.1
RESULT = Path("benchmarks", "results", "gpu_throughput.json")


def seconds_of(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the median seconds of some work on a device, after as many rounds that do not count."""
    taken = []
    for _ in range(2 * rounds):
        finish_work(device)
        started = time.perf_counter()
        work()
        finish_work(device)
        taken.append(time.perf_counter() - started)
    return median(taken[rounds:])


def gemm_flops_per_second(device: torch.device, width: int, rounds: int) -> float:
    """Return the speed of one bf16 product of square matrices (width, width)."""
    left, right = (torch.randn(width, width, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * width**3 / seconds_of(lambda: torch.mm(left, right, out=out), device, rounds)


def random_batch(rows: int, device: torch.device) -> Batch:
    """Return a batch of random tokens without padding, LENGTH positions on both sides."""
    source, target = (torch.randint(4, VOCABULARY, (rows, LENGTH)) for _ in range(2))
    return Batch(
        source=source,
        source_mask=torch.ones_like(source),
        decoder_input=target.roll(1, 1),
        labels=target,
        indices=torch.arange(rows),
    ).to(device)


def step_speed(size: SizeSpec, device: torch.device, *, rows: int, compiled: bool, rounds: int) -> dict[str, float]:
    """Return a training step's FLOPs and target tokens a second."""
    model: Any = build(size, vocab_size=VOCABULARY, dropout=0.1, seed=0)
    model.to(device).train()
    on_gpu = device.type == "cuda"
    forward = (
        ReferenceForward(model, precision="bf16", compiled=compiled)
        if on_gpu
        else FusedForward(model, precision="bf16")
    )
    weights, objective = forward.weights, CrossEntropy(label_smoothing=SMOOTHING)
    optimizer, batch = weights.adamw(learning_rate=1e-4, weight_decay=0.01), random_batch(rows, device)

    def step() -> None:
        objective(forward, batch, step=0).backward()
        weights.gather_gradient()
        weights.clip(1.0)
        optimizer.step()
        weights.refresh()

    seconds = seconds_of(step, device, rounds)
    flops = train_flops(size, padded_positions(batch), vocab_size=VOCABULARY)
    return {"flops_per_second": flops / seconds, "target_tokens_per_second": rows * LENGTH / seconds}


def main() -> None:
    """Run the benchmark, write its record and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-model", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--rows", type=int, default=128, help=f"sentences of {LENGTH} tokens a batch")
    parser.add_argument("--gemm-width", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cpu", action="store_true", help="try the program out on the CPU; writes no result")
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        sys.exit("gpu_throughput: no GPU here, so there is nothing to measure; --cpu tries the program out")
    device = torch.device("cpu") if options.cpu else torch.device("cuda", 0)
    torch.manual_seed(0)
    peak = gemm_flops_per_second(device, options.gemm_width, options.rounds)
    print(f"bf16 product of width {options.gemm_width}: {peak / 1e12:.2f} TFLOP/s")
    measured: dict[str, dict[str, float]] = {}
    for d_model in options.d_model:
        for compiled in (False,) if options.cpu else (False, True):
            name = f"{d_model} compiled" if compiled else str(d_model)
            size = SizeSpec(d_model=d_model, num_layers=options.layers)
            speed = step_speed(size, device, rows=options.rows, compiled=compiled, rounds=options.rounds)
            measured[name] = speed
            share = speed["flops_per_second"] / peak
            print(f"d_model {name}: {share:.1%} of it, {speed['target_tokens_per_second']:.0f} target tokens/s")
    ours = {name: speed["flops_per_second"] for name, speed in measured.items()}
    record = {
        "benchmark": Path(__file__).stem,
        "machine": {
            "device": "cpu" if options.cpu else torch.cuda.get_device_name(device),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
        },
        "ours": ours,
        "peers": {"bf16_gemm": dict.fromkeys(ours, peak)},
        "ratio": {"bf16_gemm": {name: value / peak for name, value in ours.items()}},
        "unit": "FLOP a second",
        "target_tokens_per_second": {name: speed["target_tokens_per_second"] for name, speed in measured.items()},
        "equal": f"the same GPU; {options.layers}+{options.layers} layers, vocabulary {VOCABULARY}, "
        f"{options.rows} x {LENGTH} tokens a batch, dropout 0.1; the peer is one product of width {options.gemm_width}",
        "precision": "bf16",
    }
    if not options.cpu:
        write_json(RESULT, record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
