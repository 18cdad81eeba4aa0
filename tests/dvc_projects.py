"""Tiny DVC projects to reproduce."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.orchestration.board import Running
from pipeline.orchestration.coordinator import Report, reproduce
from pipeline.orchestration.records import Outcome
from pipeline.orchestration.view import View

SESSION_CPUS = 3


class Silent(View):
    """A view that keeps the outcomes in the order in which they came."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[Outcome] = []
        self.lines: list[str] = []
        self.workers: dict[str, int] = {}

    def say(self, line: str) -> None:
        self.lines.append(line)

    def running(self, stages: Sequence[Running]) -> None:
        self.workers |= {stage.name: int(stage.where.split()[-1]) for stage in stages}
        super().running(stages)

    def ended(self, outcome: Outcome) -> None:
        self.order.append(outcome)
        super().ended(outcome)


class Project:
    """A DVC project in a folder."""

    def __init__(self, folder: Path, stages: Mapping[str, Any], *, git: bool = True) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if git:
            subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        self.dvc("init", "-q", *([] if git else ["--no-scm"]))
        # What else dvc would start in the background is no process of a run.
        (folder / ".dvc" / "config.local").write_text("[core]\n    analytics = false\n    check_update = false\n")
        self.write(stages)

    def write(self, stages: Mapping[str, Any]) -> None:
        (self.folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": dict(stages)}, sort_keys=False))

    def dvc(self, *arguments: str, fails: bool = False) -> str:
        """Run a dvc command and return what it printed."""
        program = [sys.executable, "-m", "dvc", *arguments]
        quiet = os.environ | {"DVC_NO_ANALYTICS": "1"}
        done = subprocess.run(program, cwd=self.folder, env=quiet, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def reproduce(self, *targets: str, view: Silent | None = None) -> tuple[Report, Silent]:
        """Run the graph within this process and return the report and what was seen."""
        view, before = view or Silent(), Path.cwd()
        os.chdir(self.folder)
        try:
            return reproduce(targets, jobs=SESSION_CPUS, view=view), view
        finally:
            os.chdir(before)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `tlc reproduce` as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "stages.cli", "reproduce", *arguments],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")


def stage(command: str, *, deps: list[str] | None = None, outs: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    """Return a stage of dvc.yaml."""
    return {"cmd": command, "deps": deps or [], "outs": outs or [], **more}


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until `condition()` holds; an AssertionError when it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
