"""What of the first study's claims holds here: each with an answer, the numbers it rests on, and why where it does not hold.

The first study is Train Large, Then Compress (Li et al., ICML 2020).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pandas as pd

from pipeline.analysis.claim import NAMES, counts
from pipeline.analysis.grids import sizes_in_order
from pipeline.analysis.task_words import Words
from pipeline.analysis.time_to_loss import larger_took_less
from pipeline.analysis.why import pruned, stratified_tau
from pipeline.analysis.wording import number, signed
from pipeline.selection import configurations, heavy, light

HOLDS, FAILS = 0.8, 0.2
"""A claim holds where at least the one share of what it is counted over bears it out, and does not where at most the other does."""


def answer(bears_out: float, of: float) -> str:
    """Return ``yes``, ``no``, ``in part``, or ``not known`` where there is nothing to count."""
    if not of:
        return "not known"
    share = bears_out / of
    return "yes" if share >= HOLDS else "no" if share <= FAILS else "in part"


def _claim(claim: str, given: str, evidence: str, because: str | None = None) -> dict[str, Any]:
    return {"claim": claim, "answer": given, "evidence": evidence, "because": because if given != "yes" else None}


def _time_claims(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for cost, name in (("steps", "steps"), ("seconds", "device seconds")):
        pairs = larger_took_less(lines, cost)
        evidence = (
            f"in {pairs.larger} of {pairs.told} pairs of sizes at a loss that their trunks reach"
            if pairs.told
            else "no loss is reached by the trunks of two sizes"
        )
        yield _claim(f"Larger sizes reach a loss in fewer {name}", answer(pairs.larger, pairs.told), evidence)


def _falling(claim: str, found: list[tuple[str, float | None, int]], *, what: str) -> dict[str, Any]:
    """Return a claim that something falls, by Kendall's tau over the pairs of each (name, tau, pairs)."""
    known = [(name, tau, pairs) for name, tau, pairs in found if tau is not None]
    falling = sum(pairs * (1 - tau) / 2 for _, tau, pairs in known)  # a tie falls by half
    text = ", ".join(f"{signed(tau, 2)} {name} ({pairs} pairs)" for name, tau, pairs in known)
    evidence = (
        f"Kendall's tau of the test loss that {what}: {text}"
        if known
        else "no two models of this study differ in that alone"
    )
    return _claim(claim, answer(falling, sum(pairs for *_, pairs in known)), evidence)


_LARGER = {"d_model": ("Wider", "num_layers"), "num_layers": ("Deeper", "d_model")}
"""{cause: (what a model is that has more of it, what is equal then)}."""


def _compression_claims(frame: pd.DataFrame, correlations: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    masked = pruned(frame)
    for cause, (larger, _) in _LARGER.items():
        mine = [one for one in correlations if (one["measure"], one["cause"]) == ("added", cause)]
        found = [(f"at {one['bits']} bits", one["tau"], one["pairs"]) for one in mine]
        yield _falling(f"{larger} models lose less by rounding", found, what="rounding adds")
    for cause, (larger, alike) in _LARGER.items():
        tau, pairs = stratified_tau(masked, cause, "added", [alike, "match", "kind", "level", "seed"])
        yield _falling(
            f"{larger} models lose less by pruning", [("at equal sparsity", tau, pairs)], what="pruning adds"
        )


def _range(values: pd.Series) -> str:
    """Write the least and the most of some losses; what rounds to nothing has no sign."""
    least, most = (number(round(float(value), 3) + 0.0, 3) for value in (values.min(), values.max()))
    return f"{least} to {most}" if least != most else least


def _reasons(frame: pd.DataFrame, matches: list[dict[str, Any]]) -> str | None:
    """Return what uncompressed sizes end at, and what either side of the verdict adds to it, under each match."""
    configs = configurations(frame)
    configs = configs[configs["eligible"] & configs["teaching"].isna()]
    parts = []
    for name in (match["match"] for match in matches):
        here = configs[configs["match"] == name]
        dense = here[here["recipe"] == "fp32"].set_index("size")["test_loss"]
        sizes = [size for size in sizes_in_order(frame) if size in dense.index]
        added = here["test_loss"] - here["size"].map(dense)
        int8 = added[light(here) & (here["bits"] == 8)].dropna()
        mildest = added[heavy(here)].groupby(here["size"]).min().dropna()
        if len(sizes) < 2 or int8.empty or mildest.empty:
            continue
        lower = sum(dense[large] < dense[small] for small, large in pairwise(sizes))
        parts.append(
            f"at {NAMES[name]} the larger of two neighbouring sizes has a lower test loss in {lower} of {len(sizes) - 1} pairs "
            f"({dense.idxmin()} the lowest); 8 bits add {_range(int8)} nats to a size, its mildest heavy recipe {_range(mildest)}"
        )
    if not parts:
        return None
    text = "; ".join(parts)
    return f"A larger model wins where its size is ahead, uncompressed, by more than compressing it hard costs: {text}"


def _verdict_claim(frame: pd.DataFrame, matches: list[dict[str, Any]], *, words: Words) -> dict[str, Any]:
    parts, won, limits = [], 0, 0
    for match in matches:
        quality, loss = (counts(match["limits"], by_loss=by_loss)["train_large"] for by_loss in (False, True))
        total = len(match["limits"])
        parts.append(
            f"by {words.quality} at {quality} and by test loss at {loss} of {total} byte limits at {NAMES[match['match']]}"
        )
        won, limits = won + quality + loss, limits + 2 * total
    return _claim(
        "A larger model, heavily compressed, beats a lightly compressed one of at most the same bytes",
        answer(won, limits),
        "; ".join(parts),
        _reasons(frame, matches),
    )


def _finetuning_claim(found: dict[str, Any]) -> dict[str, Any]:
    known = [one for one in found["common"] if one["quality_seeds"] is not None]
    within = [one for one in known if one["quality_spread"] <= one["quality_seeds"]]
    evidence = (
        f"the spread between sizes is within what seeds alone explain at {len(within)} of {len(known)} common pretraining losses: "
        + "; ".join(
            f"{number(one['quality_spread'], 1)} points, of which seeds explain up to {number(one['quality_seeds'], 1)}"
            for one in known
        )
        if known
        else "no two sizes have branches around a common pretraining loss and several seeds"
    )
    return _claim(
        "From an equal pretraining loss sizes finetune equally well", answer(len(within), len(known)), evidence
    )


def first_study_claims(
    frame: pd.DataFrame,
    *,
    matches: list[dict[str, Any]],
    time_to_loss: list[dict[str, Any]],
    correlations: list[dict[str, Any]],
    equal_pretraining_loss: dict[str, Any] | None,
    words: Words,
) -> list[dict[str, Any]]:
    """Return each claim with its answer, as JSON data; all but `frame` are parts of verdict.json.

    `answer` is one of those of `answer`, `evidence` the numbers it rests on; `because` says why a verdict is what it is, and is
    None where the claim holds or nothing is known of it.
    """
    claims = [*_time_claims(time_to_loss), *_compression_claims(frame, correlations)]
    if equal_pretraining_loss is not None:
        claims.append(_finetuning_claim(equal_pretraining_loss))
    return [*claims, _verdict_claim(frame, matches, words=words)]


def claim_text(claim: dict[str, Any]) -> str:
    """Return a claim with its answer and what that rests on, as one paragraph without markup."""
    text = f"{claim['claim']}: {claim['answer']}; {claim['evidence']}."
    return f"{text} {claim['because']}." if claim["because"] else text
