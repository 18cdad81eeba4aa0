"""A run's coordinator and the nodes of a cluster: what they get before, and what comes back."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import StudyError
from pipeline.orchestration.folders import project_identity
from pipeline.orchestration.node import ClusterRun, check_node
from pipeline.orchestration.packages import versions
from pipeline.orchestration.project import StageGraph
from pipeline.orchestration.records import STATE_FOLDER, Outcome, Run, Status
from pipeline.orchestration.remotes import one_line
from pipeline.orchestration.transfer import bring, push_known, receive_outputs

_HANDED_ON = re.compile(r"(TLC_(?!NODE_FOLDER$)\w+|MALLOC_\w+_)")
"""Variables of the coordinator that decide how a stage computes, and so hold on every node."""

_OWN = (".dvc/tmp", ".dvc/cache", ".dvc/config.local", ".work")
"""What belongs to the coordinator's folder alone, where no .gitignore says so."""

_CHECK_SECONDS = 120


def bring_sources(graph: StageGraph) -> None:
    """Fetch what ``.dvc`` files stand for and a fresh clone lacks."""
    for out in (out for source in sources(graph) for out in source.outs):
        if out.hash_info and not out.exists:
            bring(graph.repo, out)


def prepare(graph: StageGraph) -> None:
    """Put into the remote what nodes may need of earlier runs."""
    push_known(graph.repo, [*graph.stages.values(), *sources(graph)])


def sources(graph: StageGraph) -> list[Any]:
    """Return the graph's ``.dvc`` files as stages."""
    return [graph.repo.stage.load_one(os.path.join(graph.repo.root_dir, source)) for source in graph.sources]


def runtime_env(graph: StageGraph) -> dict[str, Any]:
    """Return what Ray is to give to every worker: the project's files, without git, outputs, and what git ignores."""
    outs = [out for stage in [*graph.repo.index.stages] for out in stage.outs if out.is_in_repo]
    made = [os.path.relpath(out.fs_path, graph.repo.root_dir) for out in outs]
    return {
        "working_dir": graph.repo.root_dir,
        "excludes": [".git", *_patterns([*_OWN, *made])],
        "env_vars": {name: value for name, value in os.environ.items() if _HANDED_ON.fullmatch(name)},
    }


def _patterns(paths: list[str]) -> list[str]:
    """Return paths as patterns of a .gitignore that match them alone."""
    return ["/" + re.sub(r"([*?\[\]!#\\ ])", r"\\\1", Path(path).as_posix().lstrip("/")) for path in paths]


class Cluster:
    """The nodes, for the coordinator of one run; Ray is connected to them."""

    def __init__(self, graph: StageGraph, run: Run) -> None:
        self._graph, self._root = graph, run.root
        self.run = ClusterRun(
            run=run,
            project=project_identity(run.root),
            tasks=graph.tasks,
            sources=graph.sources,
            packages=versions(),
        )

    def check(self) -> None:
        """Raise StudyError when a node cannot take part: other packages, no remote, no worker."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
        if not nodes:
            raise StudyError("the cluster has no node with CPUs; add one: ray start --address HEAD:6379")
        task, answers = ray.remote(check_node), []
        for node in nodes:
            at = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            remote = task.options(num_cpus=0, max_retries=0, scheduling_strategy=at)
            answers.append(remote.remote(self.run.packages))
        for node, answer in zip(nodes, answers, strict=True):
            try:
                fault = ray.get(answer, timeout=_CHECK_SECONDS)
            except (ray.exceptions.RayError, ModuleNotFoundError) as error:
                fault = (
                    f"{node['NodeManagerAddress']}: no worker could be started ({one_line(error)}); is the project's "
                    "environment installed there?"
                )
            if fault:
                raise StudyError(fault)

    def arrived(self, outcome: Outcome, board: Any) -> Outcome:
        """Put a stage's log and outputs into this folder; an outcome whose outputs do not come is a failure."""
        from dvc.exceptions import DvcException

        outcome = self._keep_log(outcome, board)
        entry = outcome.lock_entry or self.run.tasks[outcome.name].lock_entry
        if not outcome.status.done or entry is None:
            return outcome
        try:
            receive_outputs(
                self._graph.repo, self._graph.stages[outcome.name], entry, ran=outcome.lock_entry is not None
            )
        except (StudyError, DvcException, OSError) as error:
            return replace(outcome, status=Status.FAILED, cause=one_line(error), lock_entry=None)
        return outcome

    def _keep_log(self, outcome: Outcome, board: Any) -> Outcome:
        import ray

        if not outcome.log:
            return outcome
        try:
            text = ray.get(board.take_log.remote(outcome.name))
        except ray.exceptions.RayError:
            text = None
        if text is None:
            return replace(outcome, log="")
        path = Path(self._root, STATE_FOLDER, "logs", f"{self.run.tasks[outcome.name].file_name}.log")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"# {outcome.node}\n".encode() + text)
        return replace(outcome, log=str(path))
