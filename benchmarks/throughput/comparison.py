"""What the turns at one size come to: rates, ratios round by round, shares of the processor's peak, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from throughput.teams import Turn

Turns = dict[str, list[Turn]]
"""By side, one a round."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One side against its peers: the same batches in the same round, so a busy moment of the machine meets both."""

    turns: Turns  # of `ours` and the peers
    round_flops: Sequence[float]  # what the model needs for the batches of each round, in one process
    processes: dict[str, int]
    descriptions: dict[str, str]
    equal: str  # what was kept equal
    ours: str
    gemm_turns: list[Turn]

    @property
    def peers(self) -> list[str]:
        """The other sides' names."""
        return [name for name in self.turns if name != self.ours]

    def tokens_per_second(self, side: str) -> float:
        """Return the median over rounds of target tokens a second, all processes together."""
        return median(turn.tokens / turn.seconds for turn in self.turns[side])

    def ratios(self, peer: str) -> list[float]:
        """Return ours over the peer's tokens a second, round by round."""
        pairs = zip(self.turns[self.ours], self.turns[peer], strict=True)
        return [(mine.tokens / mine.seconds) / (its.tokens / its.seconds) for mine, its in pairs]

    def gemm_flops_per_second(self) -> float:
        """Return what bf16 matrix products reach on all cores in the best round: a peak is what a quiet machine gives."""
        return max(turn.flops / turn.seconds for turn in self.gemm_turns)

    def peak_share(self, side: str) -> float:
        """Return the share of that peak which a side's model FLOPs a second are."""
        pairs = zip(self.turns[side], self.round_flops, strict=True)
        return (
            median(self.processes[side] * flops / turn.seconds for turn, flops in pairs) / self.gemm_flops_per_second()
        )

    def peak_bytes(self, side: str) -> int | None:
        """Return the most memory its processes had resident, summed; None where it was not measured."""
        return self.turns[side][-1].peak_bytes

    def table(self) -> str:
        """Return all of it as lines of text, the fastest first."""
        lines = [f"{'':16}{'tokens/s':>10}{'ours / it':>11}  {'least to most':16}{'of peak':>8}{'memory':>10}"]
        for side in sorted(self.turns, key=self.tokens_per_second, reverse=True):
            ratio = spread = ""
            if side != self.ours:
                ratios = self.ratios(side)
                ratio, spread = f"{median(ratios):.2f}x", f"{min(ratios):.2f} to {max(ratios):.2f}"
            peak = self.peak_bytes(side)
            memory = "-" if peak is None else f"{peak / 1e6:,.0f} MB"
            rate, share = self.tokens_per_second(side), self.peak_share(side)
            lines.append(f"{side:16}{rate:>10,.0f}{ratio:>11}  {spread:16}{share:>8.1%}{memory:>10}")
        return "\n".join(lines)
