"""What goes from the coordinator to a worker and back: a stage to reproduce, the run it belongs to, its outcome."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATE_FOLDER = Path(".dvc", "tmp", "reproduce")
"""Where logs and locks of stages are kept, in each project."""


class Status(enum.StrEnum):
    """How a stage ended."""

    RAN = "ran"
    RESTORED = "restored"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"

    @property
    def done(self) -> bool:
        """Whether what depends on the stage can go on."""
        return self in (Status.RAN, Status.RESTORED, Status.UNCHANGED)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a stage needs of a node; `exclusive` is the whole of one, with `cpus` threads all the same."""

    cpus: int = 1
    memory_bytes: int = 0
    gpus: float = 0
    exclusive: bool = False


@dataclass(frozen=True, kw_only=True)
class StageTask:
    """One stage of the graph as DVC has resolved it, and its entry of dvc.lock as it stood when the run began."""

    name: str
    """DVC's address: ``report@default``, or ``folder/dvc.yaml:name``."""

    path: str
    """Its dvc.yaml, from the project's root."""

    definition: Mapping[str, Any]
    lock_entry: Mapping[str, Any] | None
    resources: Resources

    @property
    def file_name(self) -> str:
        """Its name where it names a file."""
        return re.sub(r"[^\w.@=+-]", "_", self.name)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call of `tlc reproduce`, as its workers need to know it."""

    identity: str
    root: str
    """The project's folder."""

    environment: Mapping[str, str] | None
    """The environment of every command; None on a cluster, where each node has its own."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a stage."""

    name: str
    status: Status
    seconds: float = 0.0
    attempts: int = 1
    """How often its command was started; more than once when a worker was killed."""

    log: str = ""
    """The log's path, after the host's name where that is another one."""

    lock_entry: Mapping[str, Any] | None = None
    """What dvc.lock is to say of the stage, when it ran or was restored."""

    cause: str = ""
    node: str = ""
    """The node of the cluster on which it ran."""

    tail: tuple[str, ...] = ()
    """The last lines of a failed stage's log."""
