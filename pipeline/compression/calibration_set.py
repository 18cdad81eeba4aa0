"""The calibration set: some training sentences that a method looks at without training on them, and what looking costs.

A pass gives sentences to the model, of pairs the targets as the decoder's input (teacher forcing), and scores nothing:
the last linear layer's input is what is wanted, not its output. The head of a classifier, which reads one position a
sentence, is not counted. A pass is priced like a step of training, so that the same inputs cost the same on every run:
its exact FLOPs, and the seconds that training takes for as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from pipeline.budget import Cost
from pipeline.compression.candidate import Bench, Candidate
from pipeline.corpora.batches import Batch, Ints, plan_batches, plan_lengths
from pipeline.corpora.prepared import AnySplit, Split
from pipeline.corpora.streams import collate, open_stream
from pipeline.errors import StudyError
from pipeline.flops import forward_flops, train_flops
from pipeline.training.pricing import padded_positions

_ORDER = 1  # beside the seed: training's order starts from (seed, epoch 0)
_MEAN_STEPS = 64  # so many of training's first batches say what a mean step computes


def calibration_batches(bench: Bench, sentences: int) -> list[Batch]:
    """Return the first `sentences` entries of an order of the training split, which the run's seed sets, as padded batches.

    All entries where the split has fewer. StudyError on an empty split, and on a sentence longer than `batch_tokens`.
    """
    split = bench.corpus.split("train")
    if sentences < 1 or not len(split):
        raise StudyError(
            f"{bench.key}: a calibration set of {sentences} sentences out of {len(split)} is empty; ask for at least 1, "
            "of a corpus with a training split"
        )
    rng = np.random.default_rng([bench.entry["seed"], 0, _ORDER])
    chosen = rng.permutation(len(split))[:sentences]
    plan = _plan(split, chosen, batch_tokens=bench.entry["batch_tokens"], rng=rng)
    return [collate(split, chosen[rows]) for rows in plan]


def _plan(split: AnySplit, chosen: Ints, *, batch_tokens: int, rng: np.random.Generator) -> list[Ints]:
    if isinstance(split, Split):
        sides = (side.lengths[chosen] for side in (split.source, split.target))
        return plan_batches(*sides, batch_tokens=batch_tokens, rng=rng)
    return plan_lengths(split.padded_lengths[chosen], batch_tokens=batch_tokens, rng=rng)


def seconds_per_flop(candidate: Candidate, bench: Bench) -> float:
    """Return the device seconds a FLOP at which the candidate's size trains: calibrated seconds over a mean step's FLOPs.

    Whatever is computed for a calibration is charged at this rate, so that a forward pass costs a third of a step on as
    many positions. The true seconds would differ from run to run; they are more where training computes in bf16, since
    a calibration computes in fp32 and fp64. 0 where seconds are not counted. StudyError when the size was never calibrated.
    """
    if not bench.counts_seconds:
        return 0.0
    size = candidate.size
    seconds = ((bench.entry["seconds_per_step"] or {}).get("train") or {}).get(size.key)
    if seconds is None:
        study = bench.entry["study"]
        raise StudyError(
            f"size {size.key} of study {study} is not calibrated; run `python -m stages.calibrate --study {study}`, "
            "then `tlc plan --write`"
        )
    stream = open_stream(
        bench.corpus.split("train"), batch_tokens=bench.entry["batch_tokens"], seed=bench.entry["seed"]
    )
    flops = [
        train_flops(size, padded_positions(batch), vocab_size=bench.corpus.vocab_size)
        for batch in islice(stream, _MEAN_STEPS)
    ]
    return float(seconds) * len(flops) / sum(flops)


def charge_passes(candidate: Candidate, bench: Bench, batches: Sequence[Batch], *, passes: int = 1) -> None:
    """Charge the candidate's ledger, as `calibrate`, for giving the batches to the model `passes` times.

    FLOPs of a forward pass over padded positions, nothing scored; seconds at the rate of `seconds_per_flop`.
    """
    flops = passes * sum(
        forward_flops(candidate.size, replace(padded_positions(batch), scored=0), vocab_size=bench.corpus.vocab_size)
        for batch in batches
    )
    tokens = passes * sum(batch.trained_tokens for batch in batches)
    candidate.ledger.charge(
        "calibrate", Cost(flops=flops, seconds=flops * seconds_per_flop(candidate, bench), tokens=tokens)
    )


def charge_algebra(candidate: Candidate, bench: Bench, flops: float) -> None:
    """Charge the ledger, as `calibrate`, for other work of so many FLOPs, at the rate of `seconds_per_flop`."""
    candidate.ledger.charge("calibrate", Cost(flops=flops, seconds=flops * seconds_per_flop(candidate, bench)))
