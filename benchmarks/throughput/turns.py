"""A worker's end of the pipe: it blocks until its turn comes, makes the steps asked for, and reports them.

Only the standard library is imported here, because fairseq's environment runs this file too.
"""

from __future__ import annotations

import json
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


def peak_bytes() -> int | None:
    """Return the most memory this process has had resident (VmHWM); None where the system does not say."""
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="utf-8").splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


class Turns:
    """The turns of one worker process; the clock runs from the moment it is told to go until it reports."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._started = 0.0
        self._steps_left = 0
        self._tokens = 0

    @classmethod
    def join(cls) -> tuple[Turns, dict[str, Any]]:
        """Return the turns of this process and its job, both named on its command line by `throughput.teams`."""
        return cls(Connection(int(sys.argv[1]))), json.loads(sys.argv[2])

    def wait(self) -> int:
        """Block until the next turn and return its number of steps; the process ends when there is none."""
        try:
            self._steps_left = self._connection.recv()
        except EOFError:
            sys.exit()
        self._tokens = 0
        self._started = time.perf_counter()
        return self._steps_left

    def report(self, *, tokens: int = 0, flops: int = 0) -> None:
        """End the turn with the target tokens it trained on, or the floating point operations it made."""
        seconds = time.perf_counter() - self._started
        self._connection.send({"seconds": seconds, "tokens": tokens, "flops": flops, "peak_bytes": peak_bytes()})

    def count_step(self, tokens: int) -> None:
        """Note a step of a program that runs by itself; after a turn's last one report it and block until the next."""
        self._steps_left -= 1
        self._tokens += tokens
        if not self._steps_left:
            self.report(tokens=self._tokens)
            self.wait()
