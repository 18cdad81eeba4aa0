"""SIGINT and SIGTERM as wishes that are counted, for whoever has something to finish first."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, Self


class Signals:
    """A context in which SIGINT and SIGTERM are only noted, in `received`. For the main thread."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._previous: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)

    def __bool__(self) -> bool:
        return bool(self.received)

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
