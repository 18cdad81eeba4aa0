"""What of the first study's claims holds here: each with an answer, the numbers it rests on, and why where it does not hold.

The first study is Train Large, Then Compress (Li et al., ICML 2020).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import Any

import pandas as pd

from pipeline.analysis.claim import NAMES, counts
from pipeline.analysis.equal_pretraining_loss import steps_range
from pipeline.analysis.grids import ALIKE, sizes_in_order
from pipeline.analysis.task_words import Words
from pipeline.analysis.time_to_loss import larger_took_less
from pipeline.analysis.why import CAUSES, WEAK, pruned, rounded, size_pairs, stratified_tau
from pipeline.analysis.wording import number, signed
from pipeline.selection import configurations, heavy, light

HOLDS, FAILS = 0.8, 0.2
"""A claim holds where at least the one share of what it is counted over bears it out, and does not where at most the other does."""

LEAST_PAIRS = 3
"""Of sizes: of fewer pairs nothing is said of what size does."""


def answer(bears_out: float, of: float) -> str:
    """Return ``yes``, ``no``, ``in part``, or ``not known`` where there is nothing to count."""
    if not of:
        return "not known"
    share = bears_out / of
    return "yes" if share >= HOLDS else "no" if share <= FAILS else "in part"


def _claim(claim: str, given: str, evidence: str, because: str | None = None) -> dict[str, Any]:
    reason = because if given not in ("yes", "not known") else None
    return {"claim": claim, "answer": given, "evidence": evidence, "because": reason}


def _plural(number_of: int, what: str) -> str:
    return f"{number_of} {what}{'s' if number_of != 1 else ''}"


def _of_sizes(pairs: int) -> str:
    """Write how many pairs of sizes something was counted over, and where those are too few for an answer."""
    few = f", of which an answer needs {LEAST_PAIRS}" if pairs < LEAST_PAIRS else ""
    return f"{_plural(pairs, 'pair')} of sizes{few}"


def _time_claims(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for cost, name in (("steps", "steps"), ("seconds", "device seconds")):
        pairs = larger_took_less(lines, cost)
        evidence = (
            f"in {pairs.larger} of {_plural(pairs.told, 'case')}, each two sizes at a loss that their trunks reach "
            f"({_of_sizes(pairs.sizes)})"
            if pairs.told
            else "no loss is reached by the trunks of two sizes"
        )
        given = answer(pairs.larger, pairs.told) if pairs.sizes >= LEAST_PAIRS else "not known"
        yield _claim(f"Larger sizes reach a loss in fewer {name}", given, evidence)


def falls(tau: float) -> str:
    """Return whether something falls, by Kendall's tau: a rise is a ``no``, and what is `WEAK` is ``not told apart``."""
    if abs(tau) < WEAK:
        return "not told apart"
    return "no" if tau > 0 else answer((1 - tau) / 2, 1)  # the share of pairs that fall; a tie falls by half


def _falling(claim: str, found: list[tuple[str, float | None, int]], *, what: str, sizes: int) -> dict[str, Any]:
    """Return a claim that something falls, by the tau over the pairs of each (name, tau, pairs), of so many pairs of `sizes`."""
    known = [(name, tau, pairs) for name, tau, pairs in found if tau is not None]
    text = ", ".join(f"{signed(tau, 2)} {name} ({_plural(pairs, 'pair')})" for name, tau, pairs in known)
    if not known:
        return _claim(claim, "not known", "no two models of this study differ in that alone")
    tau = sum(pairs * tau for _, tau, pairs in known) / sum(pairs for *_, pairs in known)
    evidence = f"Kendall's tau of the test loss that {what}: {text}; {_of_sizes(sizes)}"
    return _claim(claim, falls(tau) if sizes >= LEAST_PAIRS else "not known", evidence)


_LARGER = {"d_model": "Wider", "num_layers": "Deeper"}
"""{cause: what a model is that has more of it}."""


def _compression_claims(frame: pd.DataFrame, correlations: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    masked, of_bits = pruned(frame), rounded(frame)
    for cause, larger in _LARGER.items():
        mine = [one for one in correlations if (one["measure"], one["cause"]) == ("added", cause)]
        found = [(f"at {one['bits']} bits", one["tau"], one["pairs"]) for one in mine]
        sizes = size_pairs(of_bits, cause, "added", CAUSES[cause][1])
        yield _falling(f"{larger} models lose less by rounding", found, what="rounding adds", sizes=sizes)
    for cause, larger in _LARGER.items():
        strata = [*ALIKE[cause], "match", "kind", "level", "seed"]
        tau, pairs = stratified_tau(masked, cause, "added", strata)
        yield _falling(
            f"{larger} models lose less by pruning",
            [("at equal sparsity", tau, pairs)],
            what="pruning adds",
            sizes=size_pairs(masked, cause, "added", strata),
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
    """Return the claim: it holds where a larger model wins at most limits, ties counted; ties alone neither bear it out nor refute it."""
    parts, won, decided, limits = [], 0, 0, 0
    for match in matches:
        told = []
        for name, by_loss in ((words.quality, False), ("test loss", True)):
            tally = counts(match["limits"], by_loss=by_loss)
            winners = tally["heavy"] + tally["light"]
            told.append(f"by {name} at {tally['train_large']} of {winners}")
            won, decided, limits = won + tally["train_large"], decided + winners, limits + len(match["limits"])
        parts.append(f"{' and '.join(told)} at {NAMES[match['match']]} ({len(match['limits'])} byte limits)")
    given = answer(won, decided) if len(sizes_in_order(frame)) > 1 else "not known"
    if given == "yes" and won < HOLDS * limits:
        given = "in part"
    return _claim(
        "A larger model, heavily compressed, beats a lightly compressed one of at most the same bytes",
        given,
        f"of the limits that have a winner, {'; '.join(parts)}",
        _reasons(frame, matches),
    )


def _finetuning_claim(found: dict[str, Any]) -> dict[str, Any]:
    """Return the claim with an answer that never takes a difference that was not found for equality."""
    claim = "From an equal pretraining loss sizes finetune equally well"
    known = [one for one in found["common"] if one["quality_seeds"] is not None]
    if not known:
        nothing = "no two sizes have branches of several seeds around a common pretraining loss"
        return _claim(claim, "not known", nothing)
    beyond = [one for one in known if one["quality_spread"] > one["quality_seeds"]]
    pairs = {pair for one in known for pair in combinations([line["size"] for line in one["sizes"]], 2)}
    given = "not told apart" if not beyond else "no" if len(beyond) >= HOLDS * len(known) else "in part"
    told = "; ".join(_spread(one) for one in known)
    evidence = (
        f"sizes are further apart than seeds alone explain at {len(beyond)} of {len(known)} common pretraining losses: "
        f"{told}; {_of_sizes(len(pairs))}"
    )
    return _claim(claim, given if len(pairs) >= LEAST_PAIRS else "not known", evidence)


def _spread(one: dict[str, Any]) -> str:
    apart = f"{number(one['quality_spread'], 1)} points, of which seeds explain up to {number(one['quality_seeds'], 1)}"
    steps = steps_range(one)
    return apart if steps is None else f"{apart}, after {steps}"


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

    `answer` is one of `answer` or ``not told apart``, `evidence` the numbers it rests on; `because` says why a verdict is as it is, and is
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
