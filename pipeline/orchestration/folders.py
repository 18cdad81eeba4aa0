"""Where a node works: a folder for each stage, made of the project's uploaded files, and one cache for all of them.

A stage has a folder of its own, and not the node one for all, so that what another stage or another run left is in no input. It
stays until its stage is done: what a stopped stage resumes from lies in it.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from pipeline.files import atomic_path, read_json, write_json
from pipeline.orchestration import locks
from pipeline.orchestration.records import STATE_FOLDER, StageTask

VARIABLE = "TLC_NODE_FOLDER"
"""The environment variable that says where a node works, in place of a folder of the temporary directory."""

_KEPT = (Path(".dvc", "tmp"), Path(".dvc", "cache"), Path(".dvc", "config.local"))
_UPLOADED = Path(".dvc", "tmp", "uploaded.json")


def project_identity(root: str) -> str:
    """Return a name for the project in the coordinator's folder `root`: the same in every run, and no other folder's."""
    path = Path(root, STATE_FOLDER, "identity")
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_text(f"{Path(root).name}-{uuid.uuid4().hex[:12]}", encoding="utf-8")
    return path.read_text(encoding="utf-8")


def node_folder(project: str) -> Path:
    """Return the folder in which this node works for a project."""
    place = os.environ.get(VARIABLE) or Path(tempfile.gettempdir(), f"tlc-{os.getuid()}")
    return Path(place, project).absolute()


def stage_folder(source: Path, project: str, task: StageTask, *, waits: Callable[[], bool]) -> Path:
    """Make, or bring up to date, the folder of a stage with the files of `source`, and return it.

    An attempt that was killed a moment ago may still be saving: its command's end is awaited as long as `waits()`, then Busy.
    """
    place = node_folder(project)
    root = place / "stages" / task.file_name
    with locks.exclusive(root / STATE_FOLDER / "stages" / f"{task.file_name}.lock", waits=waits):
        _copy_files(source, root)
        cache = json.dumps(str(place / "cache"))
        with atomic_path(root / ".dvc" / "config.local") as temporary:
            temporary.write_text(f"[core]\n    no_scm = true\n[cache]\n    dir = {cache}\n", encoding="utf-8")
    return root


def _copy_files(source: Path, root: Path) -> None:
    """Make `root` have the files of `source`, and none that an earlier call copied and that are gone; others stay."""
    names = {path.relative_to(source) for path in source.rglob("*") if path.is_file() and not _kept(path, source)}
    record = root / _UPLOADED
    earlier = {Path(name) for name in read_json(record)} if record.exists() else set()
    for name in earlier - names:
        (root / name).unlink(missing_ok=True)
    write_json(record, sorted(str(name) for name in names | earlier))  # before copying: a kill leaves none unknown
    for name in names:
        target = root / name
        # Untouched files keep their times, and DVC the hashes that it knows for them.
        if target.is_file() and filecmp.cmp(source / name, target, shallow=False):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copy(source / name, target)  # half a copy, after a kill, is found and mended by the next call
    write_json(record, sorted(str(name) for name in names))


def _kept(path: Path, source: Path) -> bool:
    return any(path.is_relative_to(source / kept) for kept in _KEPT)
