"""What every stage command shares: its entry of params.yaml, one line for a fault, the right exit code."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import typer
import yaml

from pipeline.errors import StudyError, nearest
from pipeline.params import read_entry as read_entry

SET_HELP = "Change a setting of the run for this call alone: --set learning_rate=0.002. Repeatable; give --out too."


def overridden(entry: dict[str, Any], settings: list[str] | None) -> dict[str, Any]:
    """Return `entry` with ``name=value`` settings applied; StudyError names an unknown setting's nearest right one."""
    result = dict(entry)
    for setting in settings or []:
        name, equals, text = setting.partition("=")
        if not equals:
            raise StudyError(f"--set {setting}: write name=value")
        if name not in result:
            raise StudyError(f"--set {setting}: this stage has no setting {name!r}{nearest(name, result)}")
        result[name] = yaml.safe_load(text)
    return result


def changed_entry(kind: str, key: str, settings: list[str] | None, out: Path | None) -> dict[str, Any]:
    """Return a run's entry with ``--set`` applied; StudyError when settings change but the artifact's place does not."""
    entry = overridden(read_entry(kind, key), settings)
    if settings and out is None:
        raise StudyError("--set changes the run: give --out too, so that the study's own artifact stays as it is")
    return entry


def artifacts(study: str, *parts: str) -> Path:
    """Return a path under artifacts/<study>/."""
    return Path("artifacts", study, *parts)


def work_folder(stage: str, key: str, entry: dict[str, Any]) -> Path:
    """Return where a run keeps what it resumes from: outside DVC's outs, one folder for each set of settings."""
    digest = hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:12]
    return Path(".work", stage, f"{key}-{digest}")


def one_thread() -> None:
    """Run torch on one thread: as many processes as cores beat as many threads on models of these sizes."""
    import torch

    torch.set_num_threads(int(os.environ.get("TLC_THREADS", "1")))


def run(app: typer.Typer) -> None:
    """Run a stage's command; a fault the user can mend is one line on stderr and exit code 1."""
    try:
        app()
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped: nothing was half-written; the same command goes on or starts again", file=sys.stderr)
        sys.exit(130)
    except BaseException as error:
        code = getattr(error, "exit_code", None)
        if code is None or isinstance(error, SystemExit):
            raise
        print(f"stopped: {error}", file=sys.stderr)
        sys.exit(code)
