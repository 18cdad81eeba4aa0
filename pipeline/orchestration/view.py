"""What a run says: plain lines; see live.py for a terminal."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Self

from pipeline.orchestration.board import Running
from pipeline.orchestration.records import Outcome, StageTask, Status

_LOUD = (Status.RAN, Status.FAILED)


def duration(seconds: float) -> str:
    """Return ``7.3 s``, ``4:05`` or ``1:04:05``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class View:
    """One line when a stage starts and one when it ends."""

    def __init__(self) -> None:
        self.counts: Counter[Status] = Counter()
        self.total = 0
        self._seen: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def say(self, line: str) -> None:
        """Print a line."""
        print(line, flush=True)

    def begin(
        self, tasks: Mapping[str, StageTask], upstream: Mapping[str, Sequence[str]], seconds: Mapping[str, float]
    ) -> None:
        """Take note of the stages of the run."""
        self.total = len(tasks)

    def running(self, stages: Sequence[Running]) -> None:
        """Take note of the stages that run at the moment."""
        for stage in stages:
            if stage.name not in self._seen:
                self._seen.add(stage.name)
                self.say(f"{'started':>11}  {stage.name}")

    def ended(self, outcome: Outcome) -> None:
        """Tell how a stage ended."""
        self.counts[outcome.status] += 1
        self._seen.add(outcome.name)
        place = f"{sum(self.counts.values())}/{self.total}"
        if outcome.status is Status.INTERRUPTED:
            return
        took = f" in {duration(outcome.seconds)}" if outcome.status in _LOUD else ""
        took += f" at attempt {outcome.attempts}, a worker was killed" if outcome.attempts > 1 else ""
        cause = f": {outcome.cause}" if outcome.cause else ""
        self.say(f"{outcome.status:>11}  {outcome.name}{took} ({place}){cause}")
        for line in outcome.tail:
            self.say(f"{'':11}  | {line}")
        if outcome.status is Status.FAILED and outcome.log:
            self.say(f"{'':11}  its whole log: {outcome.log}")

    def stopping(self, times: int) -> None:
        """Tell what a signal will do."""
        asked = "stopping: running stages save their progress and end; once more to kill them"
        print(asked if times == 1 else "killing what runs", file=sys.stderr, flush=True)

    def close(self, *, seconds: float, signal: int, again: str) -> None:
        """Sum the run up in one line; after a signal, say how to go on."""
        counted = [f"{self.counts[status]} {status}" for status in Status if self.counts[status]]
        waiting = self.total - sum(self.counts.values())
        counted += [f"{waiting} not started"] if waiting else []
        self.say(f"{', '.join(counted) or 'no stages'} in {duration(seconds)}")
        if signal:
            print(f"stopped: what is done is in dvc.lock; go on with: {again}", file=sys.stderr, flush=True)
