"""Training throughput of this engine against a plain PyTorch loop on the same model and batches, alternating in one run.

    python benchmarks/train_throughput.py --d-model 64 128

Both sides run on one thread. The peer is transformers' model as it comes, trained in fp32: default attention, loss through
``labels=``, plain AdamW. The last line is one JSON object; a ratio is ours over the peer's tokens a second, higher is better.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers.models.m2m_100 import M2M100ForConditionalGeneration

from pipeline.corpora.batches import Batch
from pipeline.models.seq2seq import build, config_of
from pipeline.progress import progress
from pipeline.study import SizeSpec
from pipeline.training.objectives import CrossEntropy
from pipeline.training.precision import autocast, resolve
from pipeline.training.state import adamw

VOCABULARY, LENGTH, BATCH_TOKENS, SMOOTHING = 4000, 12, 1000, 0.1
CPU = torch.device("cpu")


def batch() -> Batch:
    """Return a batch of random tokens without padding."""
    rows = BATCH_TOKENS // LENGTH
    source, target = (torch.randint(4, VOCABULARY, (rows, LENGTH)) for _ in range(2))
    mask = torch.ones_like(source)
    return Batch(
        source=source, source_mask=mask, decoder_input=target.roll(1, 1), labels=target, indices=torch.arange(rows)
    )


class Ours:
    """A step as `pipeline.training.loop` makes it."""

    def __init__(self, size: SizeSpec) -> None:
        self.model: Any = build(size, vocab_size=VOCABULARY, seed=0).train()
        self.optimizer = adamw(self.model, learning_rate=1e-4, weight_decay=0.01)
        self.objective = CrossEntropy(label_smoothing=SMOOTHING)
        self.precision = resolve("auto", CPU)

    def step(self, data: Batch) -> None:
        """Make one update."""
        with autocast(self.precision, CPU):
            loss = self.objective(self.model, data, step=0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class PlainLoop:
    """A step as a tutorial makes it."""

    def __init__(self, size: SizeSpec) -> None:
        config = config_of(size, vocab_size=VOCABULARY)
        config._attn_implementation = "sdpa"
        self.model: Any = M2M100ForConditionalGeneration(config).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.loss = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)

    def step(self, data: Batch) -> None:
        """Make one update."""
        logits = self.model(
            input_ids=data.source, attention_mask=data.source_mask, decoder_input_ids=data.decoder_input
        ).logits
        self.loss(logits.flatten(0, 1), data.labels.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def tokens_per_second(d_model: int, rounds: int) -> dict[str, float]:
    """Return the median target tokens a second of both sides, their steps taken in turns."""
    torch.manual_seed(0)
    size = SizeSpec(d_model=d_model, num_layers=2)
    sides: dict[str, Any] = {"ours": Ours(size), "plain_loop": PlainLoop(size)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in progress(range(rounds + 2), desc=f"d_model {d_model}", unit="round"):
        data = batch()
        for name, side in sides.items():
            started = time.perf_counter()
            side.step(data)
            if turn >= 2:
                seconds[name].append(time.perf_counter() - started)
    return {name: data.target_tokens / median(values) for name, values in seconds.items()}


def main() -> None:
    """Run the benchmark and print its JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-model", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = {str(d_model): tokens_per_second(d_model, options.rounds) for d_model in options.d_model}
    for d_model, values in measured.items():
        print(f"d_model {d_model}: " + ", ".join(f"{name} {value:.0f} tokens/s" for name, value in values.items()))
    record = {
        "benchmark": Path(__file__).stem,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "ours": {d_model: values["ours"] for d_model, values in measured.items()},
        "peers": {"plain_loop": {d_model: values["plain_loop"] for d_model, values in measured.items()}},
        "ratio": {"plain_loop": {d_model: v["ours"] / v["plain_loop"] for d_model, v in measured.items()}},
        "unit": "target tokens a second",
        "equal": f"2+2 layers, vocabulary {VOCABULARY}, {BATCH_TOKENS} tokens a batch, the same batches, one thread, no dropout",
        "precision": resolve("auto", CPU),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
