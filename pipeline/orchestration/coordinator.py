"""`tlc reproduce`: the graph handed to Ray at once, what is done written to dvc.lock, faults and signals answered."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StudyError
from pipeline.orchestration import locks
from pipeline.orchestration.board import Board
from pipeline.orchestration.cluster import Cluster, bring_sources, prepare, runtime_env
from pipeline.orchestration.lockfile import LockWriter
from pipeline.orchestration.node import reproduce_on_node
from pipeline.orchestration.project import StageGraph, open_graph, path_locks
from pipeline.orchestration.records import STATE_FOLDER, Outcome, Run, Status
from pipeline.orchestration.remotes import check_remote
from pipeline.orchestration.session import ray_options, session
from pipeline.orchestration.signals import Signals
from pipeline.orchestration.transfer import ignore_outputs
from pipeline.orchestration.view import View
from pipeline.orchestration.worker import reproduce_stage

LOCK = Path(".dvc", "tmp", "reproduce.lock")
RETRIES = 2
"""How often a stage is started again whose worker was killed."""

_WAIT_SECONDS = 0.3
_WRITE_SECONDS = 1.0
_KILL_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """How a run ended: its outcomes by stage, and the signal that stopped it, or 0."""

    outcomes: Mapping[str, Outcome]
    signal: int = 0

    @property
    def exit_code(self) -> int:
        """0 when everything is up to date, 1 after a failure, 128 + the number of the signal that stopped the run."""
        if self.signal:
            return 128 + self.signal
        return 0 if all(outcome.status.done for outcome in self.outcomes.values()) else 1


@contextmanager
def _only_one(root: str, command: str) -> Iterator[None]:
    """Hold the project's lock; StudyError names who holds it already."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    try:
        with locks.exclusive(Path(root, LOCK)) as lock:
            locks.write(lock, f"process {os.getpid()} on {socket.gethostname()} since {since}: {command}\n")
            yield
    except locks.Busy as busy:
        raise StudyError(
            f"another tlc reproduce is at work here ({busy}); wait for it, or stop it with Ctrl-C"
        ) from None


def reproduce(
    targets: Sequence[str],
    *,
    jobs: int,
    address: str | None = None,
    seconds: Mapping[str, float] | None = None,
    view: View | None = None,
) -> Report:
    """Bring `targets` (all stages by default) and what they need up to date, `jobs` CPUs at once.

    `seconds` are estimates by stage: the longest chains start first, and the time left is told from them.
    """
    started, variables = time.monotonic(), dict(os.environ)
    graph = open_graph(targets)
    command = " ".join(["tlc", *sys.argv[1:]])
    with _only_one(graph.repo.root_dir, command):
        shutil.rmtree(Path(graph.repo.root_dir, STATE_FOLDER, "workers"), ignore_errors=True)
        if address is not None:
            check_remote(graph.repo)
            bring_sources(graph)
        if graph.sources:
            graph.repo.reproduce(graph.sources, single_item=True)
        ignore_outputs(graph.repo, list(graph.stages.values()))
        if address is not None:
            prepare(graph)
        with path_locks(graph, command), session(jobs, address, runtime_env(graph) if address is not None else None):
            run = Run(
                identity=uuid.uuid4().hex,
                root=graph.repo.root_dir,
                environment=variables if address is None else None,
            )
            view = view or View()
            cluster = None
            if address is not None:
                cluster = Cluster(graph, run)
                cluster.check()
            report = _Coordinator(graph, run, view, seconds or {}, cluster).run()
            view.close(seconds=time.monotonic() - started, signal=report.signal, again=command)
            return report


class _Coordinator:
    """One run's stages in Ray's hands, and what is known of them."""

    def __init__(
        self, graph: StageGraph, run: Run, view: View, seconds: Mapping[str, float], cluster: Cluster | None
    ) -> None:
        self._cluster = cluster
        self._graph, self._run, self._view = graph, run, view
        self._seconds = seconds
        self._outcomes: dict[str, Outcome] = {}
        self._unwritten: list[Outcome] = []
        self._written_at = 0.0
        self._writers: dict[Path, LockWriter] = {}
        order: dict[Path, list[str]] = {}
        for name, stage in graph.stages.items():
            order.setdefault(self._lock_path(name), []).append(stage.name)
        for path, names in order.items():
            self._writers[path] = LockWriter(path, names)

    def run(self) -> Report:
        """Submit everything, wait for everything; dvc.lock has what is done, however this ends."""
        with Signals() as signals, self._view:
            pending = self._submit()
            self._view.begin(self._graph.tasks, self._graph.upstream, self._seconds)
            try:
                self._collect(pending, signals)
            finally:
                self._write()
                self._close_board()
        return Report(outcomes=self._outcomes, signal=signals.received[0] if signals else 0)

    def _submit(self) -> dict[Any, str]:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # With the coordinator: on another node it would die with that one, and the logs that it holds.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board = ray.remote(Board).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here)
        self._board: Any = board.remote()
        work: Any = reproduce_stage if self._cluster is None else reproduce_on_node
        run, stage = ray.put(self._cluster.run if self._cluster else self._run), ray.remote(work)
        options = {name: ray_options(name, task.resources) for name, task in self._graph.tasks.items()}
        references: dict[str, Any] = {}
        for name in self._graph.submission_order(self._seconds):
            upstream = [references[need] for need in self._graph.upstream[name]]
            remote = stage.options(name=name, max_retries=RETRIES, **options[name])
            references[name] = remote.remote(run, self._graph.tasks[name], self._board, *upstream)
        return {reference: name for name, reference in references.items()}

    def _collect(self, pending: dict[Any, str], signals: Signals) -> None:
        import ray

        answered = 0
        while pending:
            if len(signals.received) > answered:
                answered = len(signals.received)
                self._view.stopping(answered)
                if answered > 1:
                    self._kill()
                    return
                for reference in pending:
                    ray.cancel(reference)
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=_WAIT_SECONDS)
            if ready:
                ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)
            for reference in ready:
                self._take(pending.pop(reference), reference, stopped=bool(signals))
            if self._unwritten and time.monotonic() - self._written_at > _WRITE_SECONDS:
                self._write()
            with suppress(ray.exceptions.RayError):
                self._view.running(ray.get(self._board.running.remote(), timeout=5))

    def _take(self, name: str, reference: Any, *, stopped: bool) -> None:
        import ray

        try:
            outcome = ray.get(reference)
        except ray.exceptions.TaskCancelledError:
            return  # it had not started
        except ray.exceptions.RayError as error:
            status = Status.INTERRUPTED if stopped else Status.FAILED
            cause = f"its worker was killed {RETRIES + 1} times ({type(error).__name__}); is there memory enough?"
            outcome = Outcome(name=name, status=status, cause=cause)
        if self._cluster is not None:
            outcome = self._cluster.arrived(outcome, self._board)
        self._outcomes[name] = outcome
        if outcome.lock_entry is not None:
            self._unwritten.append(outcome)
        self._view.ended(outcome)

    def _lock_path(self, name: str) -> Path:
        return Path(self._graph.stages[name].path).with_suffix(".lock")

    def _write(self) -> None:
        """Write what is done to dvc.lock, under DVC's own lock."""
        if not self._unwritten:
            return
        repo = self._graph.repo
        entries: dict[Path, dict[str, Mapping[str, Any]]] = {}
        for outcome in self._unwritten:
            if outcome.lock_entry is not None:
                named = entries.setdefault(self._lock_path(outcome.name), {})
                named[self._graph.stages[outcome.name].name] = outcome.lock_entry
        with repo.lock, repo.scm_context(quiet=True) as scm:
            for path, changed in entries.items():
                self._writers[path].write(changed)
                scm.track_file(os.path.relpath(path))
        self._unwritten = []
        self._written_at = time.monotonic()

    def _close_board(self) -> None:
        """End the board's process; Ray would only after the last mention of the run's tasks."""
        import ray

        if ray.is_initialized():
            ray.kill(self._board)

    def _kill(self) -> None:
        """End Ray; the guardians kill what still runs, and nothing is left when this returns."""
        import ray

        ray.shutdown()
        deadline = time.monotonic() + _KILL_SECONDS
        folder = Path(self._run.root, STATE_FOLDER, "stages")
        for task in self._graph.tasks.values():
            path = folder / f"{task.file_name}.lock"
            if path.exists():
                with suppress(locks.Busy), locks.exclusive(path, waits=lambda: time.monotonic() < deadline):
                    pass
