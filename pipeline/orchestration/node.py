"""What a node of a cluster does to one stage: what worker.py does, in a folder of its own, its files through the remote."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import StudyError
from pipeline.orchestration import locks
from pipeline.orchestration.folders import stage_folder
from pipeline.orchestration.packages import check_packages
from pipeline.orchestration.records import Outcome, Run, StageTask, Status
from pipeline.orchestration.remotes import check_remote, one_line
from pipeline.orchestration.signals import Signals
from pipeline.orchestration.transfer import fetch_inputs, push_outputs
from pipeline.orchestration.unchanged import is_unchanged
from pipeline.orchestration.worker import load_stage, open_project, reproduce_stage, skipped

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage


@dataclass(frozen=True, kw_only=True)
class ClusterRun:
    """One call of `tlc reproduce --address`, as the nodes need to know it."""

    run: Run
    project: str
    """A name for the project, the same in every run."""

    tasks: Mapping[str, StageTask]
    sources: Sequence[str]
    """The ``.dvc`` files of the graph."""

    packages: Mapping[str, str]
    """The coordinator's versions."""


@cache
def uploaded_folder() -> Path:
    """Return the folder in which Ray unpacked the project, which is where it starts its workers."""
    return Path.cwd()


def this_node() -> str:
    """Return a name for this node: its host, and the beginning of its Ray id, as `ray list nodes` shows it."""
    import ray

    return f"{socket.gethostname()}, node {ray.get_runtime_context().get_node_id()[:12]}"


def check_node(packages: Mapping[str, str]) -> str:
    """Return why this node cannot take part, in one line, or nothing."""
    from dvc.repo import Repo
    from scmrepo.noscm import NoSCM

    where = f"{this_node()}: "
    try:
        check_packages(packages, where=where)
        with Repo(str(uploaded_folder()), scm=NoSCM(str(uploaded_folder()))) as repo:
            check_remote(repo, where=where)
    except StudyError as error:
        return str(error)
    return ""


def reproduce_on_node(cluster: ClusterRun, task: StageTask, board: Any, *upstream: Outcome) -> Outcome:
    """Bring one stage up to date on this node; its outputs and its log are where the coordinator finds them."""
    import ray

    source = uploaded_folder()
    if (outcome := skipped(task, upstream)) is not None:
        return outcome
    with Signals() as stop:
        try:
            check_packages(cluster.packages, where=f"{this_node()}: ")
            if _is_unchanged(cluster, task, source, upstream):
                return Outcome(name=task.name, status=Status.UNCHANGED, node=this_node())
            root = stage_folder(source, cluster.project, task, waits=lambda: not stop)
            outcome = _reproduce(cluster, task, board, root, upstream, stop)
        except locks.Busy:
            outcome = Outcome(name=task.name, status=Status.INTERRUPTED)
        except StudyError as error:
            outcome = Outcome(name=task.name, status=Status.FAILED, cause=str(error))
        except Exception as error:
            outcome = Outcome(name=task.name, status=Status.FAILED, cause=f"{type(error).__name__}: {one_line(error)}")
        finally:
            os.chdir(source)
        if outcome.log and Path(outcome.log).exists():
            # Not in the outcome: Ray keeps small ones with the coordinator, and would run a stage again for a lost large one.
            with suppress(ray.exceptions.RayError):  # without its log a stage is done all the same
                ray.get(board.keep_log.remote(task.name, Path(outcome.log).read_bytes()))
        if outcome.status.done:
            shutil.rmtree(root, ignore_errors=True)
        return replace(outcome, node=this_node())


def _is_unchanged(cluster: ClusterRun, task: StageTask, source: Path, upstream: Sequence[Outcome]) -> bool:
    """Tell whether a stage is up to date from the uploaded files and hashes; no folder is made for one that is."""
    repo = open_project(str(source), cluster.run.identity)
    repo._reset()
    return is_unchanged(repo, load_stage(repo, task), _above(repo, cluster, upstream))


def _reproduce(
    cluster: ClusterRun, task: StageTask, board: Any, root: Path, upstream: Sequence[Outcome], stop: Signals
) -> Outcome:
    if stop:
        return Outcome(name=task.name, status=Status.INTERRUPTED)
    repo = open_project(str(root), cluster.run.identity)
    repo._reset()
    fetch_inputs(repo, load_stage(repo, task), _above(repo, cluster, upstream))
    outcome = reproduce_stage(replace(cluster.run, root=str(root), environment=_environment()), task, board)
    if outcome.status.done:
        try:
            push_outputs(repo, load_stage(repo, replace(task, lock_entry=outcome.lock_entry or task.lock_entry)))
        except StudyError as error:
            return replace(outcome, status=Status.FAILED, cause=str(error), lock_entry=None)
    return outcome


def _above(repo: Repo, cluster: ClusterRun, upstream: Sequence[Outcome]) -> list[Stage]:
    """Return the stages upstream with the hashes of what they made, and what ``.dvc`` files stand for."""
    entries = {outcome.name: outcome.lock_entry or cluster.tasks[outcome.name].lock_entry for outcome in upstream}
    stages = [load_stage(repo, replace(cluster.tasks[name], lock_entry=entry)) for name, entry in entries.items()]
    return [*stages, *(repo.stage.load_one(os.path.join(repo.root_dir, source)) for source in cluster.sources)]


def _environment() -> dict[str, str]:
    """Return a command's environment: this node's, with the worker's own `python` first."""
    search = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    return dict(os.environ) | {"PATH": search}
