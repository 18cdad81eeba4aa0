"""SIGTERM and Ctrl-C become a wish to stop: the loop saves its state within a step and only then leaves."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Self


class Interrupted(BaseException):
    """Training stopped on request, its state saved; the exit code is 128 + the signal's number."""

    def __init__(self, number: int, saved: str) -> None:
        super().__init__(
            f"{signal.Signals(number).name} came; progress is kept in {saved}, the same command goes on from there"
        )
        self.exit_code = 128 + number


class StopRequest:
    """A context in which SIGTERM and SIGINT only set `number`; a second SIGINT stops at once.

    A signal that nobody heeded by the end of the context is sent again, to whoever handled it before. With `heeded` False
    signals are left alone.
    """

    def __init__(self, *, heeded: bool = True) -> None:
        self.number = 0
        self._signals = (signal.SIGTERM, signal.SIGINT) if heeded else ()
        self._previous: dict[int, object] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    def __enter__(self) -> Self:
        for number in self._signals:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if self.number and exception[0] is not Interrupted:
            signal.raise_signal(self.number)
