"""The claim about latency limits: one sentence made from the counts of the ladders.

Ladders of one match are of the same models timed otherwise, and agree for that reason: their limits are not added up. The
first setting's ladder is counted, the others are given as a range.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.analysis.claim import NAMES, ahead, counts
from pipeline.analysis.engine_comparison import setting_name
from pipeline.analysis.latency_limits import Setting
from pipeline.deployed import NARROWEST_BITS


def runs_as_int8(side: dict[str, Any]) -> bool:
    """Tell whether a side of `latency` was written in fewer bits than its int8 engine computes in."""
    return side["bits"] is not None and side["bits"] < NARROWEST_BITS and side["engine"].endswith("int8")


def setting_of(ladder: dict[str, Any]) -> Setting:
    """Return the threads and batch size of a ladder of `latency` in verdict.json."""
    return ladder["threads"], ladder["batch"]


def of_primary_setting(ladders: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the ladders, one a match, of the setting that comes first: 1 thread and batch 1 where that was timed."""
    return [one for one in ladders if setting_of(one) == setting_of(ladders[0])]


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return f"{found[0]} to {found[-1]}" if len(found) > 1 else str(found[0])


def _does_not_fit(number: str) -> str:
    return f", with {number} where one side does not fit" if number != "0" else ""


def _others(ladders: list[dict[str, Any]]) -> str:
    """Return at how many limits either side is ahead, as a range over the ladders of other settings."""
    quality, loss = ([counts(one["limits"], by_loss=by_loss) for one in ladders] for by_loss in (False, True))
    (larger, lighter), (larger_by_loss, lighter_by_loss) = (
        [_range(tally[name] for tally in tallies) for name in ("train_large", "light")] for tallies in (quality, loss)
    )
    settings = "setting" if len(ladders) == 1 else f"{len(ladders)} settings"
    return (
        f", and at the other {settings} of threads and batch size at {larger} of "
        f"{_range(len(one['limits']) for one in ladders)} and at {lighter} "
        f"(by test loss at {larger_by_loss} and at {lighter_by_loss})"
        f"{_does_not_fit(_range(tally['infeasible'] for tally in quality))}"
    )


def _part(ladders: list[dict[str, Any]], quality_name: str) -> str:
    """Return what the ladders of one match found, those of the primary setting first."""
    primary, *others = ladders
    infeasible = _does_not_fit(str(counts(primary["limits"])["infeasible"]))
    counted = ahead(primary["limits"], quality_name=quality_name, of="limits")
    return f"at {NAMES[primary['match']]} {counted}{infeasible}{_others(others) if others else ''}"


def _without(settings: list[Setting]) -> str:
    where = " and ".join(map(setting_name, settings))
    return f"no ladder at {where}: no eligible int8 model of a size was timed there, see engines.csv"


def latency_claim(ladders: list[dict[str, Any]], settings: list[Setting], *, quality_name: str) -> str | None:
    """Return what the ladders of `latency` in verdict.json found at the first setting, and the range over the others.

    `settings` are those that were timed, which the claim names where they have no ladder; None where nothing was timed.
    """
    found = {setting_of(one) for one in ladders}
    lacking = [setting for setting in settings if setting not in found]
    if not ladders:
        return f"Latency limits: {_without(lacking)}." if lacking else None
    by_match: dict[str, list[dict[str, Any]]] = {}
    for one in ladders:
        by_match.setdefault(one["match"], []).append(one)
    parts = "; ".join(_part(of_match, quality_name) for of_match in by_match.values())
    text = f"At limits of latency, in milliseconds a batch ({setting_name(setting_of(ladders[0]))}), {parts}"
    limits = [limit for one in of_primary_setting(ladders) for limit in one["limits"]]
    heavy = [limit["heavy"] for limit in limits if limit["heavy"] is not None]
    if wider := sum(map(runs_as_int8, heavy)):
        text += (
            f"; at {setting_name(setting_of(ladders[0]))}, of the {len(heavy)} heavy choices {wider} have weights of fewer than "
            f"{NARROWEST_BITS} bits and run as int8, for no engine here computes in fewer"
        )
    return f"{text}; {_without(lacking)}." if lacking else f"{text}."
