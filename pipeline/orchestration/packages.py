"""Whether a node has the packages that the coordinator has: the same code would do other things with others."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata

from pipeline.errors import StudyError

_PROJECT = "train-large-then-compress"
_ALWAYS = ("dvc", "ray")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the project names as dependencies."""
    from packaging.requirements import Requirement

    try:
        named = [Requirement(line) for line in metadata.requires(_PROJECT) or []]
    except metadata.PackageNotFoundError:
        named = []
    needed = {one.name for one in named if one.marker is None or one.marker.evaluate({"extra": ""})}
    return {"python": _python()} | {name: version(name) for name in sorted(needed.union(_ALWAYS))}


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def version(name: str) -> str:
    """Return a package's version here, without the part that names a build (``2.13.0`` of ``2.13.0+cpu``), or ``none``."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "none"


def check_packages(wanted: Mapping[str, str], *, where: str) -> None:
    """Raise StudyError, which begins with `where`, unless this process has the versions `wanted`."""
    here = {name: _python() if name == "python" else version(name) for name in wanted}
    other = [f"{name} {here[name]} instead of {wanted[name]}" for name in wanted if here[name] != wanted[name]]
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise StudyError(
            f"{where}it has {', '.join(other[:3])}{more}; install there what is here: pip install -r requirements.lock"
        )
