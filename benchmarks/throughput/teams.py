"""A side's worker processes, each started in the environment that the side asks for, and the turns they take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, Self

from pipeline.progress import progress

_PACKAGES = Path(__file__).resolve().parent.parent
_SETTLE_SECONDS = 0.05
"""Between two turns: OpenMP's threads spin for some milliseconds after their last work before they sleep."""
_OWN_VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_", "MALLOC_")
"""Variables that change speed: a worker gets those of its side alone, not those that the benchmark was started with."""
_TAIL_LINES = 15


@dataclass(frozen=True, kw_only=True)
class Side:
    """One way to do the work: which module runs it, in how many processes at once, in which environment."""

    name: str
    description: str
    module: str  # of this package
    processes: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # added to the job
    python: str = sys.executable


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a side's processes did in one turn, together."""

    seconds: float  # of the slowest process
    tokens: int
    flops: int
    peak_bytes: int | None  # so far


class Team:
    """The running processes of a side, blocked on their pipes until `turn`."""

    def __init__(self, side: Side, job: dict[str, Any], *, logs: Path) -> None:
        self.side = side
        self._workers = []
        for number in range(side.processes):
            log = logs / f"{side.name}-{number}.log"
            ours, theirs = Pipe()
            command = [side.python, "-m", f"throughput.{side.module}", str(theirs.fileno())]
            kept = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_VARIABLES)}
            paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [*command, json.dumps(job | side.settings | {"process": number})],
                    env=kept | {"PYTHONPATH": os.pathsep.join(paths)} | side.environment,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches the benchmark, which closes the pipes
                )
            theirs.close()
            self._workers.append((process, ours, log))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for _, connection, _ in self._workers:
            connection.close()
        for process, _, _ in self._workers:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def turn(self, steps: int) -> Turn:
        """Let every process make `steps` steps at once; RuntimeError with the end of its log when one has died."""
        try:
            for _, connection, _ in self._workers:
                connection.send(steps)
            replies = [connection.recv() for _, connection, _ in self._workers]
        except (EOFError, OSError) as error:
            ends = [log.read_text(encoding="utf-8", errors="replace").splitlines() for _, _, log in self._workers]
            text = "\n".join(line for end in ends for line in end[-_TAIL_LINES:])
            raise RuntimeError(f"a process of {self.side.name} ended:\n{text}") from error
        peaks = [reply["peak_bytes"] for reply in replies]
        return Turn(
            seconds=max(reply["seconds"] for reply in replies),
            tokens=sum(reply["tokens"] for reply in replies),
            flops=sum(reply["flops"] for reply in replies),
            peak_bytes=None if None in peaks else sum(peaks),
        )


def alternate(
    sides: Sequence[Side],
    job: dict[str, Any],
    *,
    rounds: int,
    steps: int | Mapping[str, int],
    logs: Path,
    label: str,
) -> dict[str, list[Turn]]:
    """Return every side's turns, one a round, after a round of warm-up; all but one side's processes are idle at any time.

    `steps` is what a turn is given, for all sides or by side.
    """
    by_side = steps if isinstance(steps, Mapping) else {side.name: steps for side in sides}
    with ExitStack() as stack:
        teams = [stack.enter_context(Team(side, job, logs=logs)) for side in sides]
        turns = take_turns(teams, [by_side] * (rounds + 1), label=label)
    return {name: taken[1:] for name, taken in turns.items()}


def take_turns(teams: Sequence[Team], rounds: Sequence[Mapping[str, int]], *, label: str) -> dict[str, list[Turn]]:
    """Give every team a turn a round; a round says by side what the turn is given.

    The order is turned round every time, so that what one side leaves behind (caches, heat) meets each side in turn.
    """
    turns: dict[str, list[Turn]] = {team.side.name: [] for team in teams}
    for number, steps in enumerate(progress(rounds, total=len(rounds), desc=label, unit="round")):
        for team in teams if number % 2 else reversed(teams):
            turns[team.side.name].append(team.turn(steps[team.side.name]))
            time.sleep(_SETTLE_SECONDS)
    return turns
