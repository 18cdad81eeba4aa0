"""The view of a run on a terminal: counts, a row for each running stage with its log's last line, the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.orchestration.board import Running
from pipeline.orchestration.estimates import seconds_left
from pipeline.orchestration.records import Outcome, StageTask, Status
from pipeline.orchestration.view import View, duration


class LiveView(View):
    """What is over scrolls by as in plain lines; below it stands what runs."""

    def __init__(self, jobs: float, console: Console | None = None) -> None:
        super().__init__()
        self._jobs = jobs
        self._console = console or Console()
        self._rows: Sequence[Running] = ()
        self._waiting: set[str] = set()
        self._upstream: Mapping[str, Sequence[str]] = {}
        self._seconds: Mapping[str, float] = {}
        self._live = Live(console=self._console, get_renderable=self._picture, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.__exit__(None, None, None)

    def say(self, line: str) -> None:
        """Print a line above the rows."""
        self._console.print(Text(line))

    def begin(
        self, tasks: Mapping[str, StageTask], upstream: Mapping[str, Sequence[str]], seconds: Mapping[str, float]
    ) -> None:
        """Take note of the stages of the run and of their estimated seconds."""
        super().begin(tasks, upstream, seconds)
        self._waiting, self._upstream, self._seconds = set(tasks), upstream, seconds

    def running(self, stages: Sequence[Running]) -> None:
        """Show the stages that run; a start needs no line of its own here."""
        self._rows = [stage for stage in stages if stage.name in self._waiting]

    def ended(self, outcome: Outcome) -> None:
        """Tell how a stage ended, and count it."""
        self._waiting.discard(outcome.name)
        self._rows = [stage for stage in self._rows if stage.name != outcome.name]
        super().ended(outcome)

    def _picture(self) -> RenderableType:
        now = time.time()
        rows = Table.grid(padding=(0, 2), expand=True)
        rows.add_column(no_wrap=True)
        rows.add_column(no_wrap=True, justify="right")
        rows.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for stage in self._rows:
            rows.add_row(Text(stage.name), duration(max(0.0, now - stage.started)), Text(stage.line, style="dim"))
        failed = self.counts[Status.FAILED] + self.counts[Status.SKIPPED]
        done = sum(self.counts.values()) - failed
        line = (
            f"{len(self._waiting) - len(self._rows)} waiting, {len(self._rows)} running, {done} done, {failed} failed"
        )
        left = self._left(now)
        return Group(rows, Text(line + (f"; about {duration(left)} left" if left else "")))

    def _left(self, now: float) -> float | None:
        elapsed = {stage.name: now - stage.started for stage in self._rows}
        waiting = self._waiting - elapsed.keys()
        return seconds_left(waiting, elapsed, upstream=self._upstream, seconds=self._seconds, jobs=self._jobs)
