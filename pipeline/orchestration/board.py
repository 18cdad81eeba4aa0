"""Which stages run at the moment, where, and what their logs say last: workers write it, the coordinator reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Running:
    """A stage that runs."""

    name: str
    started: float
    """Seconds since the epoch."""

    where: str
    """Host and process id of its worker."""

    line: str = ""


class Board:
    """The state behind the live view; one Ray actor a run, so that workers on any node can write it."""

    def __init__(self) -> None:
        self._running: dict[str, Running] = {}
        self._logs: dict[str, bytes] = {}

    def started(self, stage: Running) -> None:
        """Note that a stage's command begins."""
        self._running[stage.name] = stage

    def says(self, name: str, line: str) -> None:
        """Note the last line of a running stage's log."""
        if name in self._running:
            self._running[name] = replace(self._running[name], line=line)

    def ended(self, name: str) -> None:
        """Note that a stage's worker is done with it."""
        self._running.pop(name, None)

    def running(self) -> list[Running]:
        """Return the stages that run, the longest-running first."""
        return sorted(self._running.values(), key=lambda stage: stage.started)

    def keep_log(self, name: str, text: bytes) -> None:
        """Hold the log of a stage that ended on another node until the coordinator takes it."""
        self._logs[name] = text

    def take_log(self, name: str) -> bytes | None:
        """Return a stage's log and forget it; None when it is not there (its node, or this one, died)."""
        return self._logs.pop(name, None)
