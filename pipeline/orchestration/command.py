"""A stage's command as a guarded child process, its output in a log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.orchestration import guardian

if TYPE_CHECKING:
    from dvc.stage import Stage

_POLL_SECONDS = 0.02
_REPORT_SECONDS = 1.0
_TAIL_BYTES = 8192
_CURSOR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # how bars below one another find their lines


class Stopped(Exception):
    """The command was asked to stop, and has ended before it was done."""


class CommandFailed(Exception):
    """The command ended with an exit code other than 0."""


def last_lines(log: Path, count: int) -> tuple[str, ...]:
    """Return a log's last lines that say something; of a line that a progress bar has rewritten, its latest state."""
    try:
        with open(log, "rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - _TAIL_BYTES))
            text = handle.read().decode(errors="replace")
    except OSError:
        return ()
    text = _CURSOR.sub("", text)
    states = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n"))
    return tuple(line for line in states if line)[-count:]


def environment(stage: Stage, given: Mapping[str, str] | None, threads: int) -> dict[str, str]:
    """Return the environment that DVC gives to a stage's command, with as many threads as the stage has CPUs."""
    from dvc.env import DVC_ROOT, DVC_STAGE
    from dvc.utils import fix_env

    result: dict[str, str] = fix_env(dict(os.environ if given is None else given))
    result.setdefault(DVC_ROOT, stage.repo.root_dir)
    result[DVC_STAGE] = stage.addressing
    # Its log is read while it runs: lines at once, and progress bars although it is no terminal.
    return result | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1", "TLC_PROGRESS": "1"}


def run_command(
    stage: Stage,
    *,
    variables: dict[str, str],
    log: Path,
    lock: int,
    stopping: Callable[[], bool],
    report: Callable[[str], None],
) -> None:
    """Run a stage's commands one after the other, their output appended to `log`, until `stopping()`.

    The commands inherit the descriptor `lock`. `report` gets the log's last line now and then. Raises CommandFailed, and
    Stopped after a request to stop.
    """
    from dvc.stage.run import _enforce_cmd_list, _make_cmd

    for command in _enforce_cmd_list(stage.cmd):
        if stopping():
            raise Stopped
        with open(log, "ab") as output:
            output.write(f"> {command}\n".encode())
            output.flush()
            code = _run(
                _make_cmd(variables.get("SHELL") or "/bin/sh", command),
                folder=stage.wdir,
                variables=variables,
                output=output.fileno(),
                lock=lock,
                stopping=stopping,
                heartbeat=lambda: report("".join(last_lines(log, 1))),
            )
        if code != 0:
            raise Stopped if stopping() else CommandFailed(f"exit code {code}: {command}")


def _run(
    command: list[str],
    *,
    folder: str,
    variables: dict[str, str],
    output: int,
    lock: int,
    stopping: Callable[[], bool],
    heartbeat: Callable[[], None],
) -> int:
    lifeline, held = os.pipe()
    try:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, str(lifeline), str(lock), *command],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(lifeline, lock),
            start_new_session=True,  # a terminal's Ctrl-C is for the coordinator alone
        )
        told, reported = False, time.monotonic()
        while (code := child.poll()) is None:
            if stopping() and not told:
                child.terminate()
                told = True
            if time.monotonic() - reported > _REPORT_SECONDS:
                heartbeat()
                reported = time.monotonic()
            time.sleep(_POLL_SECONDS)
        return code
    finally:
        os.close(lifeline)
        os.close(held)
