"""The claim: one sentence made from the counts of the verdict, never from a hope."""

from __future__ import annotations

from collections import Counter
from typing import Any

NAMES = {"seconds": "equal device seconds", "flops": "equal training FLOPs"}


def counts(limits: list[dict[str, Any]], *, by_loss: bool = False) -> Counter[str]:
    """Count winners over limits: heavy, light, tie, infeasible, and `train_large`, where a larger heavy model won."""
    outcomes = [limit["by_loss"] if by_loss else limit for limit in limits]
    result = Counter(str(outcome["winner"]) for outcome in outcomes)
    result["train_large"] = sum(outcome["supports_train_large"] for outcome in outcomes)
    return result


def leaning(limits: list[dict[str, Any]], *, by_loss: bool = False) -> str:
    """Return what most limits that have a winner say: train_large, light, or neither."""
    tally = counts(limits, by_loss=by_loss)
    if tally["train_large"] == tally["light"]:
        return "neither"
    return "train_large" if tally["train_large"] > tally["light"] else "light"


def matches_disagree(matches: list[dict[str, Any]]) -> bool:
    """Tell whether the matches lean differently, or name opposite winners at one limit, by quality or by loss."""
    for by_loss in (False, True):
        if len({leaning(match["limits"], by_loss=by_loss) for match in matches}) > 1:
            return True
        for limits in zip(*(match["limits"] for match in matches), strict=True):
            if {"heavy", "light"} <= {(limit["by_loss"] if by_loss else limit)["winner"] for limit in limits}:
                return True
    return False


def ahead(limits: list[dict[str, Any]], *, quality_name: str, of: str) -> str:
    """Return at how many limits either side is ahead, by quality and by loss; `of` says what limits these are."""
    quality, loss = counts(limits), counts(limits, by_loss=True)
    sizes = list(
        dict.fromkeys(limit["heavy"]["config_id"].split("/")[0] for limit in limits if limit["supports_train_large"])
    )
    who = f" ({', '.join(sizes)})" if sizes else ""
    return (
        f"a larger, heavily compressed model{who} is ahead by {quality_name} at {quality['train_large']} of "
        f"{len(limits)} {of} and a lightly compressed one at {quality['light']} "
        f"(by test loss at {loss['train_large']} and {loss['light']})"
    )


def _part(match: dict[str, Any], quality_name: str) -> str:
    counted = ahead(match["limits"], quality_name=quality_name, of="byte limits")
    return f"at {NAMES[match['match']]} ({match['budget']}) {counted}"


def claim_sentence(matches: list[dict[str, Any]], *, quality_name: str, throughput: dict[str, float]) -> str:
    """Return the claim; when the matches disagree it begins with that and gives every size's GFLOP/s."""
    text = "; ".join(_part(match, quality_name) for match in matches)
    if not matches_disagree(matches):
        return f"{text[0].upper()}{text[1:]}."
    speeds = ", ".join(f"{size} {speed:.0f}" for size, speed in throughput.items())
    return f"The two matches disagree: {text}; training ran at these GFLOP/s: {speeds}."
