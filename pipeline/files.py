"""Files that are either whole or absent: atomic writes, JSON, hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import StudyError

_ALMOST_NOTHING = 1 << 16


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename it over `path` on success.

    The caller makes a file or a directory at the yielded path. On any error, Ctrl-C included, the temporary is removed
    and what stood at `path` is left as it was. Raises StudyError when the disk is full.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        if not temporary.exists():
            raise FileNotFoundError(f"nothing was written for {final}")
        if temporary.is_file():
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
        if temporary.is_dir() and final.exists():
            # A directory cannot be renamed over a non-empty one: move the old one aside, so that one of the two is always whole.
            old = _aside(final)
            os.replace(final, old)
            os.replace(temporary, final)
            _remove(old)
        else:
            os.replace(temporary, final)
    except Exception as error:
        # torch and safetensors raise errors of their own when a write fails, so the disk itself is asked.
        full = getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(final.parent).free < _ALMOST_NOTHING
        _remove(temporary)
        if full and not isinstance(error, StudyError):
            raise StudyError(f"{final}: the disk is full; free some space and run the same command again") from error
        raise
    except BaseException:
        _remove(temporary)
        raise


def remove_leftovers(folder: str | Path, name: str | None = None) -> None:
    """Remove what killed writers left in `folder` of the file or directory `name`, or of any there.

    Only for what this process alone writes: another one's temporary looks the same.
    """
    pattern = re.compile(rf"\.{re.escape(name) if name else '.+'}\.[0-9a-f]{{8}}\.(tmp|old)")
    for path in sorted(Path(folder).glob(".*")):
        if pattern.fullmatch(path.name):
            _remove(path)


def remove_whole(path: str | Path) -> None:
    """Remove a directory so that a kill leaves it as it was, or gone from its place."""
    path = Path(path)
    remove_leftovers(path.parent, path.name)
    if path.exists():
        aside = _aside(path)
        os.replace(path, aside)
        _remove(aside)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON with sorted keys, atomically; NaN and infinity are refused, not written."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; StudyError names the file when it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file; run the stage that writes it (dvc repro)") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StudyError(
            f"{path}: not valid JSON ({error}); delete it and run the stage that writes it again"
        ) from None


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
