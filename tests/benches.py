"""A small candidate and the bench that a compression method works on, without a study around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.budget import Budget, Ledger
from pipeline.compression.candidate import Bench, Candidate
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.models.building import build
from pipeline.size import SizeSpec
from tests.runs import KEY, PRUNE

SIZE = SizeSpec(d_model=32, num_layers=2, num_heads=2, ffn_dim=64)


def size_for(corpus: PreparedCorpus) -> SizeSpec:
    """Return SIZE, or the like of a classifier where the corpus holds labelled sentences of at most 48 positions."""
    return SIZE.changed(architecture="encoder", positions=48, num_labels=corpus.classes) if corpus.classes else SIZE


def candidate_of(corpus: PreparedCorpus, size: SizeSpec | None = None) -> Candidate:
    """Return an untrained candidate of `size_for`, or of another size; always the same."""
    size = size or size_for(corpus)
    model = build(size, vocab_size=corpus.vocab_size, seed=5).eval()
    return Candidate(model=model, size=size, trained_size=size, ledger=Ledger(), run={})


def bench_of(corpus: PreparedCorpus, folder: Path, **changes: Any) -> Bench:
    """Return a bench whose entry has 0.5 calibrated seconds a step of `size_for`; `changes` are the entry's."""
    entry = PRUNE | {"seconds_per_step": {"train": {size_for(corpus).key: 0.5}}} | changes
    budget = Budget.parse("40 s")
    return Bench(
        entry=entry,
        key=KEY,
        match="seconds",
        corpus=corpus,
        budget=budget,
        recovery=budget.scaled(0.0),
        parent=folder / "parent",
        validate=lambda model: 0.0,
        checkpoint=folder / "step.pt",
        share=1.0,
    )
