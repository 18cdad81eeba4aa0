"""Run one command in a process group of its own that ends when whoever started it ends; a script of the standard library alone.

``python guardian.py LIFELINE LOCK COMMAND...``: LIFELINE is the read end of a pipe whose only write end the starter holds, LOCK
a file descriptor that the command inherits: a lock on it lasts as long as anything that the command started.

The first SIGTERM, or the end of the starter, sends SIGTERM to the whole group, so that a stage saves its checkpoint; a second
one sends SIGKILL. After its starter is gone nobody can ask twice, and SIGKILL follows after ``GRACE_SECONDS``.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

GRACE_SECONDS = 60.0
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG = 1


def _prctl(option: int, value: int) -> None:
    """Call Linux's prctl; other systems have none, and there the process group alone has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


class _Group:
    """The command's process group and how often it was asked to stop."""

    def __init__(self, command: list[str], lock: int) -> None:
        # Orphans of the group come to this process, so that none is left unseen.
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self.child = subprocess.Popen(
            command,
            start_new_session=True,
            pass_fds=(lock,),
            preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
        )
        self.stops = 0
        self.code: int | None = None

    def signal(self, number: int) -> bool:
        """Send a signal to the group (0: none); False when nobody is left in it."""
        with contextlib.suppress(PermissionError):
            try:
                os.killpg(self.child.pid, number)
            except ProcessLookupError:
                return False
        return True

    def stop(self) -> None:
        """Ask the group to end; to a second request SIGKILL is the answer."""
        self.stops += 1
        self.signal(signal.SIGTERM if self.stops == 1 else signal.SIGKILL)

    def reap(self) -> None:
        """Take note of every descendant that has ended."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.child.pid:
                    self.code = os.waitstatus_to_exitcode(ended[1])

    @property
    def over(self) -> bool:
        """Whether the command has ended; after a request to stop, whether its whole group has."""
        return self.code is not None and not (self.stops and self.signal(0))


def main() -> int:
    """Run the command of the command line; return its exit code, or 128 + the number of the signal that ended it."""
    lifeline, lock, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    wakeup, noted = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
    os.set_blocking(noted, False)
    signal.set_wakeup_fd(noted)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    # Ray starts its processes with SIGINT blocked; a stage is to hear it as from a terminal.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    group = _Group(command, lock)
    waited_on, last = [wakeup, lifeline], float("inf")
    while not group.over:
        ready = select.select(waited_on, [], [], 0.5 if group.stops else None)[0]
        if wakeup in ready:
            for _ in range(os.read(wakeup, 4096).count(signal.SIGTERM)):
                group.stop()
        if lifeline in ready:  # nothing is ever written there: its starter has ended
            waited_on, last = [wakeup], time.monotonic() + GRACE_SECONDS
            group.stop()
        if time.monotonic() > last:
            group.signal(signal.SIGKILL)
        group.reap()
    assert group.code is not None
    return group.code if group.code >= 0 else 128 - group.code


if __name__ == "__main__":
    sys.exit(main())
