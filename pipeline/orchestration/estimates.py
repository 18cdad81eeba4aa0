"""How long a run will still take, from estimates of its stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def seconds_left(
    waiting: Iterable[str],
    elapsed: Mapping[str, float],
    *,
    upstream: Mapping[str, Sequence[str]],
    seconds: Mapping[str, float],
    jobs: float,
) -> float | None:
    """Return the larger of what is left over `jobs` and the longest chain of it; None when nothing is known.

    `elapsed` are the running stages' seconds so far. `upstream` lists every stage after those it needs.
    """
    left = {name: max(0.0, seconds.get(name, 0.0) - spent) for name, spent in elapsed.items()}
    left |= {name: seconds.get(name, 0.0) for name in waiting}
    if not any(left.values()):
        return None
    until: dict[str, float] = {}
    for name, needs in upstream.items():
        until[name] = left.get(name, 0.0) + max((until[need] for need in needs), default=0.0)
    return max(sum(left.values()) / jobs, max(until.values()))
