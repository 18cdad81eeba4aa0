"""Training budgets and the ledger of what was spent, and on what."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import StudyError, nearest

PURPOSES = ("train", "teacher", "decode", "finetune", "calibrate")
"""What a run can pay for; evaluation is measured and never charged."""

_UNITS = {
    "flop": ("flops", 1.0),
    "flops": ("flops", 1.0),
    "s": ("seconds", 1.0),
    "sec": ("seconds", 1.0),
    "second": ("seconds", 1.0),
    "seconds": ("seconds", 1.0),
    "min": ("seconds", 60.0),
    "h": ("seconds", 3600.0),
    "tok": ("tokens", 1.0),
    "token": ("tokens", 1.0),
    "tokens": ("tokens", 1.0),
    "step": ("steps", 1.0),
    "steps": ("steps", 1.0),
}
_SUFFIX = {"flops": "flop", "seconds": "s", "tokens": "tok", "steps": "step"}
_PATTERN = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z]*)\s*")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one piece of work costs: FLOPs, device seconds (of one single-thread process), target tokens, update steps."""

    flops: float = 0.0
    seconds: float = 0.0
    tokens: float = 0.0
    steps: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            flops=self.flops + other.flops,
            seconds=self.seconds + other.seconds,
            tokens=self.tokens + other.tokens,
            steps=self.steps + other.steps,
        )


@dataclass(frozen=True, kw_only=True)
class Budget:
    """An amount of one resource: `resource` is flops, seconds, tokens or steps."""

    amount: float
    resource: str

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``"3e13 flop"``, ``"300 s"``, ``"5e6 tok"`` or ``"1000 step"``; StudyError on a missing unit or a non-positive amount."""
        match = _PATTERN.fullmatch(str(text))
        if match is None:
            raise StudyError(f"budget {text!r} is not a number with a unit; write for example '300 s' or '3e13 flop'")
        number, unit = match.groups()
        if not unit:
            raise StudyError(f"budget {text!r} has no unit; add one of flop, s, tok, step, as in '{number} s'")
        if unit.lower() not in _UNITS:
            raise StudyError(f"budget {text!r} has the unknown unit {unit!r}{nearest(unit.lower(), _UNITS)}")
        resource, factor = _UNITS[unit.lower()]
        amount = float(number) * factor
        if not 0 < amount < float("inf"):
            raise StudyError(f"budget {text!r} must be a positive amount")
        return cls(amount=amount, resource=resource)

    def __str__(self) -> str:
        return f"{self.amount:g} {_SUFFIX[self.resource]}"

    def scaled(self, fraction: float) -> Budget:
        """Return `fraction` of this budget."""
        return Budget(amount=self.amount * fraction, resource=self.resource)

    def spent(self, cost: Cost) -> float:
        """Return how much of this budget's resource `cost` uses."""
        return float(getattr(cost, self.resource))

    def admits(self, cost: Cost) -> bool:
        """Tell whether `cost` in total stays within the budget (rounding of sums apart)."""
        return self.spent(cost) <= self.amount * (1 + 1e-9)

    def steps_within(self, costs: Iterable[Cost], *, spent: Cost | None = None) -> int:
        """Return how many of the successive steps priced by `costs` fit: it stops before the one that would exceed.

        `spent` is what was paid beforehand (teacher decoding, say). `costs` may be endless.
        """
        total = spent or Cost()
        count = 0
        for cost in costs:
            total = total + cost
            if not self.admits(total):
                return count
            count += 1
        return count


@dataclass(kw_only=True)
class Ledger:
    """What was spent, by purpose (`PURPOSES`); survives resumes through `as_dict` and `from_dict`."""

    by_purpose: dict[str, Cost] = field(default_factory=dict)

    def charge(self, purpose: str, cost: Cost) -> None:
        """Add `cost` to what `purpose` has spent; an unknown purpose is a ValueError."""
        if purpose not in PURPOSES:
            raise ValueError(f"unknown purpose {purpose!r}{nearest(purpose, PURPOSES)}")
        self.by_purpose[purpose] = self.of(purpose) + cost

    def of(self, purpose: str) -> Cost:
        """Return what `purpose` has spent so far."""
        return self.by_purpose.get(purpose, Cost())

    @property
    def total(self) -> Cost:
        """Everything spent, over all purposes."""
        return sum(self.by_purpose.values(), Cost())

    def merged(self, other: Ledger) -> Ledger:
        """Return a new ledger that holds what both spent (a compressed model pays for its parent too)."""
        result = Ledger(by_purpose=dict(self.by_purpose))
        for purpose, cost in other.by_purpose.items():
            result.charge(purpose, cost)
        return result

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Return plain JSON data, one entry a purpose."""
        return {
            purpose: {"flops": cost.flops, "seconds": cost.seconds, "tokens": cost.tokens, "steps": cost.steps}
            for purpose, cost in self.by_purpose.items()
        }

    @classmethod
    def from_dict(cls, data: dict[str, dict[str, Any]]) -> Ledger:
        """Rebuild a ledger from `as_dict`'s data."""
        return cls(by_purpose={purpose: Cost(**cost) for purpose, cost in data.items()})
