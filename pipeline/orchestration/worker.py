"""What a Ray worker does to one stage: what DVC itself would do, through DVC's own code, with a guarded command."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.orchestration import locks
from pipeline.orchestration.board import Running
from pipeline.orchestration.command import CommandFailed, Stopped, environment, last_lines, run_command
from pipeline.orchestration.records import STATE_FOLDER, Outcome, Run, StageTask, Status
from pipeline.orchestration.signals import Signals

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

TAIL_LINES = 15
"""How many of a failed stage's last lines are reported."""


@lru_cache(maxsize=2)  # on a node of a cluster: the uploaded files, and a stage's own folder
def open_project(root: str, run: str) -> Repo:
    """Return DVC's view of a project, made once a process and run, for stages that no other process touches.

    The coordinator holds DVC's path locks for every stage of the run, so that other DVC commands are refused. Workers of the
    same run need none between them: the graph keeps their stages apart, hashes are in SQLite, the cache is written by renaming.
    So this Repo's own locks are empty ones, and its path locks a file of its own. Git is the coordinator's as well.
    """
    from dvc.lock import LockNoop
    from dvc.repo import Repo
    from scmrepo.noscm import NoSCM

    repo = Repo(root, scm=NoSCM(root))
    repo.lock = LockNoop()
    repo.lock.lock()
    repo.tmp_dir = str(Path(root, STATE_FOLDER, "workers", str(os.getpid())))
    os.makedirs(repo.tmp_dir, exist_ok=True)
    return repo


def load_stage(repo: Repo, task: StageTask) -> PipelineStage:
    """Return DVC's stage as the coordinator resolved it; no file is read."""
    from dvc.dvcfile import ProjectFile
    from dvc.stage.loader import StageLoader

    file = ProjectFile(repo, os.path.join(repo.root_dir, task.path))
    name = task.name.rpartition(":")[2]
    return StageLoader.load_stage(file, name, dict(task.definition), dict(task.lock_entry or {}))


def skipped(task: StageTask, upstream: Sequence[Outcome]) -> Outcome | None:
    """Return the outcome of a stage whose upstream is not done, or None when it can go on."""
    missing = [outcome.name for outcome in upstream if not outcome.status.done]
    if not missing or task.definition.get("frozen"):
        return None
    return Outcome(name=task.name, status=Status.SKIPPED, cause=f"needs {', '.join(sorted(missing))}")


def reproduce_stage(run: Run, task: StageTask, board: Any, *upstream: Outcome) -> Outcome:
    """Bring one stage up to date and return what became of it; a stage whose upstream is not done is skipped."""
    if (outcome := skipped(task, upstream)) is not None:
        return outcome
    os.chdir(run.root)
    try:
        with Signals() as stop:
            return _attempt(run, task, board, stop)
    finally:
        board.ended.remote(task.name)


def _attempt(run: Run, task: StageTask, board: Any, stop: Signals) -> Outcome:
    started = time.monotonic()
    folder = Path(run.root, STATE_FOLDER)
    log = folder / "logs" / f"{task.file_name}.log"
    status, entry, cause, attempts = Status.FAILED, None, "", 1
    tail: tuple[str, ...] = ()
    try:
        # An earlier worker may have been killed a moment ago: its command holds the lock until it has saved and ended.
        with locks.exclusive(folder / "stages" / f"{task.file_name}.lock", waits=lambda: not stop) as lock:
            try:
                status, entry = _reproduce(run, task, log=log, lock=lock, stop=stop, board=board)
            finally:
                attempts = max(1, _attempts(lock, run))
    except (Stopped, locks.Busy):
        status = Status.INTERRUPTED
    except CommandFailed as error:
        cause, tail = str(error), last_lines(log, TAIL_LINES)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        with suppress(OSError), open(log, "a", encoding="utf-8") as handle:
            handle.write(traceback.format_exc())
    return Outcome(
        name=task.name,
        status=status,
        seconds=time.monotonic() - started,
        attempts=attempts,
        log=str(log),
        lock_entry=entry,
        cause=cause,
        tail=tail,
    )


def _attempts(lock: int, run: Run) -> int:
    """Return how often this run has started the stage's command so far; its lock keeps count."""
    identity, _, count = locks.read(lock).partition(" ")
    return int(count) if identity == run.identity else 0


def _reproduce(
    run: Run, task: StageTask, *, log: Path, lock: int, stop: Signals, board: Any
) -> tuple[Status, dict[str, Any] | None]:
    from dvc.stage.cache import RunCacheNotFoundError
    from dvc.stage.serialize import to_single_stage_lockfile

    if stop:
        raise Stopped
    repo = open_project(run.root, run.identity)
    repo._reset()
    stage = load_stage(repo, task)
    status = Status.UNCHANGED
    log.parent.mkdir(parents=True, exist_ok=True)

    def run_stage(dry: bool, force: bool, **options: Any) -> None:
        """Do what DVC's run_stage does, with our way to run a command."""
        nonlocal status
        try:
            repo.stage_cache.restore(stage)
        except RunCacheNotFoundError:
            stage.save_deps()
        else:
            status = Status.RESTORED
            return
        status = Status.RAN
        attempt = _attempts(lock, run) + 1
        if attempt == 1:
            log.write_bytes(b"")
        locks.write(lock, f"{run.identity} {attempt}")
        where = f"{socket.gethostname()}, process {os.getpid()}"
        board.started.remote(Running(name=task.name, started=time.time(), where=where))
        run_command(
            stage,
            variables=environment(stage, run.environment, task.resources.cpus),
            log=log,
            lock=lock,
            stopping=lambda: bool(stop),
            report=lambda line: board.says.remote(task.name, line),
        )
        repo._reset()

    # Everything else (changed or not, outputs removed, hashed and committed, the run cache) is DVC's own code.
    stage._run_stage = run_stage
    if stage.reproduce() is None:
        return Status.UNCHANGED, None
    return status, dict(to_single_stage_lockfile(stage))
