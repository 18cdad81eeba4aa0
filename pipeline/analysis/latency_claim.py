"""The claim about latency limits: one sentence made from the counts of the ladders."""

from __future__ import annotations

from typing import Any

from pipeline.analysis.claim import NAMES, ahead, counts
from pipeline.deployed import NARROWEST_BITS


def runs_as_int8(side: dict[str, Any]) -> bool:
    """Tell whether a side of `latency` was written in fewer bits than its int8 engine computes in."""
    return side["bits"] is not None and side["bits"] < NARROWEST_BITS and side["engine"].endswith("int8")


def _part(match: str, limits: list[dict[str, Any]], quality_name: str) -> str:
    text = f"at {NAMES[match]} {ahead(limits, quality_name=quality_name, of='limits')}"
    infeasible = counts(limits)["infeasible"]
    return f"{text}, with {infeasible} where one side does not fit" if infeasible else text


def latency_claim(ladders: list[dict[str, Any]], *, quality_name: str) -> str | None:
    """Return what the ladders of `latency` in verdict.json found, counted over all settings; None where nothing was timed."""
    if not ladders:
        return None
    by_match: dict[str, list[dict[str, Any]]] = {}
    for one in ladders:
        by_match.setdefault(one["match"], []).extend(one["limits"])
    settings = len({(one["threads"], one["batch"]) for one in ladders})
    where = "one setting" if settings == 1 else f"{settings} settings"
    parts = "; ".join(_part(match, limits, quality_name) for match, limits in by_match.items())
    heavy = [limit["heavy"] for limits in by_match.values() for limit in limits if limit["heavy"] is not None]
    wider = sum(map(runs_as_int8, heavy))
    text = f"At limits of latency, in milliseconds a batch ({where} of threads and batch size), {parts}"
    if wider:
        text += (
            f"; {wider} of the {len(heavy)} heavy choices have weights of fewer than {NARROWEST_BITS} bits and run as int8, "
            "for no engine here computes in fewer"
        )
    return f"{text}."
