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
from pipeline.files import sha256_file
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
        result[name] = _like(name, yaml.safe_load(text), entry[name])
    return result


def _like(name: str, value: Any, present: Any) -> Any:
    """Return `value` when it is of the kind that `present` is (an integer serves as a number); StudyError otherwise."""
    if isinstance(present, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if present is not None and type(value) is not type(present):
        raise StudyError(
            f"--set {name}={value}: a {type(present).__name__} is needed, as in {name}={json.dumps(present)}"
        )
    return value


def changed_entry(kind: str, key: str, settings: list[str] | None, out: Path | None) -> dict[str, Any]:
    """Return a run's entry with ``--set`` applied.

    StudyError when settings change but the artifact's place does not, and when torchrun has started several processes of
    a stage that would do, and write, everything several times.
    """
    if kind != "pretrain" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise StudyError(f"pretrain alone is made for torchrun; start {kind} as one process: python -m stages.{kind}")
    entry = overridden(read_entry(kind, key), settings)
    if settings and out is None:
        raise StudyError("--set changes the run: give --out too, so that the study's own artifact stays as it is")
    return entry


def artifacts(study: str, *parts: str) -> Path:
    """Return a path under artifacts/<study>/."""
    return Path("artifacts", study, *parts)


def work_folder(stage: str, key: str, entry: dict[str, Any], *, inputs: list[Path]) -> Path:
    """Return where a run keeps what it resumes from, outside DVC's outs.

    There is one folder for each set of settings, contents of the input folders and code of ours that is loaded: a run that
    was stopped never goes on with another corpus, parent or method than it began with. Call it after the stage's imports.
    """
    digest = hashlib.sha256(json.dumps(entry, sort_keys=True).encode())
    modules = (module for name, module in sys.modules.items() if name.split(".")[0] in ("pipeline", "stages"))
    code = {Path(module.__file__) for module in modules if module.__file__}
    data = {path for folder in inputs for path in folder.rglob("*") if path.is_file()}
    for path in (*sorted(code), *sorted(data)):
        digest.update(f"{path.name} {sha256_file(path)}".encode())
    return Path(".work", stage, f"{key}-{digest.hexdigest()[:12]}")


def one_thread() -> None:
    """Run torch on one thread: as many processes as cores beat as many threads on models of these sizes."""
    import torch

    torch.set_num_threads(1)


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
