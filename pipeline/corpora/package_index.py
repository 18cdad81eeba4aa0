"""The package index that pip is set up for: finding and downloading one file of a release, without building it."""

from __future__ import annotations

import ast
import logging
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import StudyError
from pipeline.progress import progress

if TYPE_CHECKING:
    from unearth import PackageFinder

_ATTEMPTS = 3
_NAMES = (
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "cert",
    "client-cert",
    "trusted-host",
    "proxy",
    "timeout",
)
_SECTIONS = ("global", "download", ":env:")  # later ones win, as in pip


def pip_settings() -> dict[str, str]:
    """Return pip's settings for downloads (its files and PIP_* variables), so that a mirror is honoured.

    Where pip itself is not installed, the variables alone count.
    """
    found = {f":env:.{name}": os.environ.get("PIP_" + name.upper().replace("-", "_"), "") for name in _NAMES}
    try:
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        listed = ""
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        try:
            found.setdefault(key, str(ast.literal_eval(value)))
        except (ValueError, SyntaxError):
            continue
    settings: dict[str, str] = {}
    for section in _SECTIONS:
        for name in _NAMES:
            if found.get(f"{section}.{name}"):
                settings[name] = found[f"{section}.{name}"].strip()
    return settings


def _session(settings: dict[str, str], index_urls: list[str]) -> Any:
    from unearth.auth import MultiDomainBasicAuth
    from unearth.fetchers import PyPIClient

    options: dict[str, Any] = {"timeout": float(settings.get("timeout", 30))}
    if "cert" in settings:
        path = settings["cert"]
        folder = os.path.isdir(path)
        options["verify"] = ssl.create_default_context(capath=path if folder else None, cafile=None if folder else path)
    if "client-cert" in settings:
        options["cert"] = settings["client-cert"]
    if "proxy" in settings:
        options["proxy"] = settings["proxy"]
    session = PyPIClient(trusted_hosts=settings.get("trusted-host", "").split(), **options)
    session.auth = MultiDomainBasicAuth(prompting=False, index_urls=index_urls)
    return session


def _finder(name: str, *, wheel: bool, settings: dict[str, str]) -> PackageFinder:
    from unearth import PackageFinder

    own = settings.get("index-url", "").split()
    extra = settings.get("extra-index-url", "").split()
    finder = PackageFinder(
        _session(settings, own + extra),
        index_urls=own,  # none: the finder takes the index that pip takes by default
        no_binary=[] if wheel else [name],
        only_binary=[name] if wheel else [],
        ignore_compatibility=True,
    )
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        finder.sources.clear()
    else:
        for url in extra:
            finder.add_index_url(url)
    for place in settings.get("find-links", "").split():
        if "://" in place or os.path.exists(place):
            finder.add_find_links(place)
    return finder


class _Reasons(logging.Handler):
    """Keeps what the finder would log, without addresses, as the cause that an error message gives."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.args[-1] if isinstance(record.args, tuple) and record.args else record.getMessage()
        self.last = _plain(cause)


def _plain(cause: object) -> str:
    return " ".join(re.sub(r"\S+://\S+", "", str(cause)).split())[:160]


@contextmanager
def _quiet_finder() -> Iterator[_Reasons]:
    logger, reasons = logging.getLogger("unearth"), _Reasons()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(reasons)
    try:
        yield reasons
    finally:
        logger.removeHandler(reasons)
        logger.propagate = propagate


def how_to_fetch(package: str, file: str, cache: Path) -> str:
    """Return the fix that works without a network here: fetch on a connected machine, copy into the cache."""
    kind = "--only-binary" if file.endswith(".whl") else "--no-binary"
    return (
        f'on a connected machine run `pip install unearth && unearth "{package}" {kind} -d .` '
        f"and copy {file} to {cache / file}"
    )


def download(package: str, file: str, directory: Path, *, cache: Path) -> Path:
    """Download `file` of the release `package` (``name==version``) into `directory` and return its path.

    Tried three times. StudyError, with what to do on a connected machine, when the index cannot be reached or lacks it.
    """
    name = re.split(r"[=<>!~ \[]", package, maxsplit=1)[0]
    settings = pip_settings()
    cause = ""
    for attempt in range(_ATTEMPTS):
        time.sleep(attempt)
        with _quiet_finder() as reasons, progress(total=None, desc=f"fetching {file}", unit="B") as bar:

            def report(link: Any, completed: int, total: int | None, bar: Any = bar) -> None:
                bar.total = total
                bar.update(completed - bar.n)

            try:
                finder = _finder(name, wheel=file.endswith(".whl"), settings=settings)
                match = next((found for found in finder.find_matches(package) if found.link.filename == file), None)
                if match is not None:
                    return finder.download(match.link, directory, download_reporter=report)
                cause = reasons.last or "no such file in that release"
            except Exception as error:  # the finder's network layer raises its own and other libraries' errors
                cause = _plain(error) or type(error).__name__
        if cause == "no such file in that release":
            break
    raise StudyError(
        f"{package}: {file} could not be fetched from the package index ({cause}); "
        f"check the network and pip's configuration, or {how_to_fetch(package, file, cache)}"
    )
