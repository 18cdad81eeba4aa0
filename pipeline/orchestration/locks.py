"""Locks on files that end with the last process that holds them, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_POLL_SECONDS = 0.05


class Busy(Exception):
    """Another process holds the lock; the message is what that process wrote into it."""


def _held(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def exclusive(path: Path, *, waits: Callable[[], bool] = lambda: False) -> Iterator[int]:
    """Hold the lock on `path` and yield its file descriptor; processes that inherit the descriptor hold it too.

    While another process holds it, wait as long as `waits()` says so, then raise Busy.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while not _held(descriptor):
            if not waits():
                raise Busy(path.read_text(encoding="utf-8").strip())
            time.sleep(_POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)  # not LOCK_UN, which would take the lock from a command that still runs


def read(descriptor: int) -> str:
    """Return what the lock's last holder wrote into it."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode()


def write(descriptor: int, text: str) -> None:
    """Say in the lock's file who holds it."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
