"""DVC's graph of a project as tasks: which stages, in which order, each after which others."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import StudyError, nearest
from pipeline.orchestration.records import Resources, StageTask

if TYPE_CHECKING:
    from dvc.dvcfile import ProjectFile
    from dvc.repo import Repo
    from dvc.stage import PipelineStage


def resources(stage: str, meta: Any) -> Resources:
    """Return what a stage declares under ``meta:`` in dvc.yaml; keys of other tools are left alone."""
    if not isinstance(meta, Mapping):
        return Resources()
    known = {item.name: item.type for item in dataclasses.fields(Resources)}
    declared = {name: value for name, value in meta.items() if name in known}
    for name, value in declared.items():
        right = isinstance(value, bool) if name == "exclusive" else isinstance(value, int | float)
        if not right or (not isinstance(value, bool) and value < (1 if name == "cpus" else 0)):
            raise StudyError(f"dvc.yaml: meta.{name} of {stage} is {value!r}; write {known[name]}, as in {name}: 1")
    return Resources(**declared)


@dataclass
class StageGraph:
    """The stages to reproduce, in the order in which DVC alone would run them."""

    repo: Repo
    stages: dict[str, PipelineStage]
    tasks: dict[str, StageTask]
    upstream: dict[str, list[str]]
    sources: list[str] = field(default_factory=list)
    """What has no command: files that `dvc add` or `dvc import` follow."""

    def submission_order(self, seconds: Mapping[str, float]) -> list[str]:
        """Return every stage after those it needs, the longest remaining path first."""
        import networkx

        remaining: dict[str, float] = {}
        downstream: dict[str, list[str]] = {name: [] for name in self.tasks}
        for name, needs in self.upstream.items():
            for need in needs:
                downstream[need].append(name)
        for name in reversed(self.tasks):
            after = max((remaining[other] for other in downstream[name]), default=0.0)
            remaining[name] = seconds.get(name, 0.0) + after
        place = {name: number for number, name in enumerate(self.tasks)}
        graph = networkx.DiGraph(downstream)
        return list(networkx.lexicographical_topological_sort(graph, key=lambda name: (-remaining[name], place[name])))


def open_graph(targets: Sequence[str]) -> StageGraph:
    """Read dvc.yaml and dvc.lock and return what `dvc repro TARGETS` would go through; StudyError says what is wrong."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        # It waits for DVC's lock wherever it takes it: another command may hold it for a moment.
        repo = Repo(_wait_for_lock=True)
        os.chdir(repo.root_dir)
        return _collected(repo, targets)
    except DvcException as error:
        message = " ".join(str(error).split())
        hint = _hint(repo, targets) if "repo" in locals() else ""
        raise StudyError(f"{message}{hint}") from error


def _hint(repo: Repo, targets: Sequence[str]) -> str:
    from dvc.exceptions import DvcException

    try:
        names = [stage.addressing for stage in repo.index.stages]
    except DvcException:
        return ""
    unknown = [target for target in targets if target not in names]
    return nearest(unknown[0], names) if unknown else ""


def _collected(repo: Repo, targets: Sequence[str]) -> StageGraph:
    from dvc.dvcfile import PROJECT_FILE
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
    from dvc.stage import PipelineStage

    wanted = collect_stages(repo, targets or [PROJECT_FILE])
    active = get_active_graph(repo.index.graph)
    graph = StageGraph(repo=repo, stages={}, tasks={}, upstream={})
    files: dict[str, ProjectFile] = {}  # a stage's own would be read anew
    for stage in plan_repro(active, wanted):
        if not isinstance(stage, PipelineStage):
            graph.sources.append(stage.addressing)
            continue
        name, file = stage.addressing, files.setdefault(stage.path, stage.dvcfile)
        graph.stages[name] = stage
        graph.tasks[name] = StageTask(
            name=name,
            path=os.path.relpath(stage.path, repo.root_dir),
            definition=file.resolver.resolve_one(stage.name)[stage.name],
            lock_entry=file.stages.lockfile_data.get(stage.name),
            resources=resources(name, stage.meta),
        )
        # A frozen stage comes after what it would depend on too, where DVC has them in this order: it notes their hashes.
        needs = [need.addressing for need in repo.index.graph.successors(stage)]
        graph.upstream[name] = [need for need in needs if need in graph.tasks and need != name]
    _check_untracked(graph)
    return graph


def _check_untracked(graph: StageGraph) -> None:
    from dvc.output import OutputAlreadyTrackedError

    for stage in graph.stages.values():
        for out in stage.outs:
            if out.use_scm_ignore and graph.repo.scm.is_tracked(out.fspath):
                raise OutputAlreadyTrackedError(out)


@contextmanager
def path_locks(graph: StageGraph, command: str) -> Iterator[None]:
    """Hold DVC's own path locks for all stages, so that no other DVC command touches what they read and write.

    DVC answers such a command with the name and process id of this one, and forgets the locks of a process that was killed.
    """
    from dvc.dependency.db import AbstractDependency
    from dvc.dependency.repo import RepoDependency
    from dvc.lock import LockError
    from dvc.rwlock import rwlock

    stages, repo = graph.stages.values(), graph.repo
    writes = {out.fs_path for stage in stages for out in stage.outs}
    reads = {
        dep.fs_path
        for stage in stages
        for dep in stage.deps
        if not isinstance(dep, RepoDependency | AbstractDependency)
    }
    hard = repo.config["core"].get("hardlink_lock", False)
    held = rwlock(repo.tmp_dir, repo.fs, command, sorted(reads - writes), sorted(writes), hard)
    try:
        held.__enter__()
    except LockError as error:
        raise StudyError(f"DVC is at work here: {' '.join(str(error).split())}") from error
    try:
        yield
    finally:
        held.__exit__(None, None, None)
