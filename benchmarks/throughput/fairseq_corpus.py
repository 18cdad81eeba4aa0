"""A workload as the text files that fairseq-train reads: token ids in the place of words, sentences in the batches' order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.corpora.batches import Batch
from throughput.workload import LEARNING_RATE, Workload

_SPECIAL_IDS = 4
"""<s>, <pad>, </s> and <unk> have the ids in fairseq that they have here; it adds them to a dictionary by itself."""


def fairseq_job(workload: Workload, batches: list[Batch], folder: Path) -> dict[str, Any]:
    """Write the sentences of `batches` and their dictionary into `folder`; return what fairseq's side must know."""
    folder.mkdir(parents=True)
    train = workload.corpus.pairs("train")
    rows = [row for batch in batches for row in batch.indices.tolist()]
    for side, sentences in (("source", train.source), ("target", train.target)):
        lines = [" ".join(str(token) for token in sentences[row]) for row in rows]
        (folder / f"train.source-target.{side}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        entries = "".join(f"{token} 1\n" for token in range(_SPECIAL_IDS, workload.corpus.vocab_size))
        (folder / f"dict.{side}.txt").write_text(entries, encoding="utf-8")
    size, training = workload.size, workload.study.training
    return {
        "data": str(folder),
        "batch_rows": [len(batch) for batch in batches],
        "num_layers": size.num_layers,
        "num_heads": size.num_heads,
        "ffn_dim": size.ffn_dim,
        "learning_rate": LEARNING_RATE,
        "label_smoothing": training.label_smoothing,
        "weight_decay": training.weight_decay,
        "clip_norm": training.clip_norm,
        "batch_tokens": training.batch_tokens,
    }
