"""fairseq-train in its own environment, blocking between turns and given the same batches; everything else is fairseq's.

Two of its methods are wrapped: the one that groups sentences into batches returns those of the other sides, and the one
that makes an update waits for its turn.
"""

from __future__ import annotations

import sys
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from fairseq.data import LanguagePairDataset
from fairseq.trainer import Trainer
from fairseq_cli.train import cli_main

from throughput.turns import Turns


def command_line(job: dict[str, Any]) -> list[str]:
    """Return fairseq-train's arguments for a job: the same shape and updates, plain Adam in fp32."""
    shape = {"layers": job["num_layers"], "embed-dim": job["d_model"], "ffn-embed-dim": job["ffn_dim"]}
    shape["attention-heads"] = job["num_heads"]
    options = {
        **{f"{part}-{name}": value for part in ("encoder", "decoder") for name, value in shape.items()},
        "source-lang": "source",
        "target-lang": "target",
        "dataset-impl": "raw",
        "arch": "transformer",
        "dropout": 0.0,
        "criterion": "label_smoothed_cross_entropy",
        "label-smoothing": job["label_smoothing"],
        "optimizer": "adam",
        "lr": job["learning_rate"],
        "weight-decay": job["weight_decay"],
        "clip-norm": job["clip_norm"],
        "max-tokens": job["batch_tokens"],
        "required-batch-size-multiple": 1,
        "curriculum": 1,  # the first epoch's batches in their order
        "num-workers": 0,
        "log-format": "none",
    }
    switches = ["share-all-embeddings", "encoder-normalize-before", "decoder-normalize-before"]
    switches += ["cpu", "no-save", "disable-validation"]
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [job["data"], *given, *(f"--{name}" for name in switches)]


def main() -> None:
    """Take turns until there are no more."""
    turns, job = Turns.join()
    edges = [0, *accumulate(job["batch_rows"])]
    make_update = Trainer.train_step

    def batch_by_size(dataset: Any, indices: Any, **limits: Any) -> list[Any]:
        return [np.arange(start, end) for start, end in pairwise(edges)]

    def train_step(trainer: Any, samples: list[Any], *arguments: Any, **options: Any) -> Any:
        if trainer.get_num_updates() == 0:
            turns.wait()
        answer = make_update(trainer, samples, *arguments, **options)
        turns.count_step(sum(int(sample["ntokens"]) for sample in samples))
        return answer

    LanguagePairDataset.batch_by_size = batch_by_size
    Trainer.train_step = train_step
    sys.argv[1:] = command_line(job)
    cli_main()


if __name__ == "__main__":
    main()
