"""The DVC remote that several nodes exchange through: found, reachable from each of them, and spoken to object by object."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pipeline.errors import StudyError

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc_data.hashfile.db import HashFileDB
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.status import CompareStatusResult
    from dvc_data.hashfile.tree import Tree

_ADD = "dvc remote add --default shared s3://bucket/path (or a folder that every node mounts)"


def check_remote(repo: Repo, *, where: str = "") -> None:
    """Raise StudyError unless the default remote can be the same place for every node.

    `where` names the node in the message. A relative path is refused because every node's copy of the project would resolve it
    against itself, and a folder that is not there because DVC would make it, empty, instead of missing the mount.
    """
    from dvc.config import NoRemoteError, RemoteConfigError, RemoteNotFoundError
    from dvc.config_schema import RelPath
    from dvc.exceptions import DvcException

    name = repo.config["core"].get("remote")
    if not name:
        raise StudyError(f"{where}no default DVC remote, and several nodes exchange files through one; {_ADD}")
    url = (repo.config["remote"].get(name.lower()) or {}).get("url", "")
    if isinstance(url, RelPath):
        raise StudyError(
            f"{where}the DVC remote {name!r} has a relative path, which is another folder on every node; "
            f"name it in full: dvc remote modify {name} url /path/that/every/node/mounts"
        )
    try:
        odb = repo.cloud.get_remote_odb()
    except (NoRemoteError, RemoteNotFoundError) as error:
        raise StudyError(f"{where}the default DVC remote {name!r} is not defined; {_ADD}") from error
    except RemoteConfigError as error:
        raise StudyError(
            f"{where}the DVC remote {name!r} is cloud-versioned, which holds no intermediate files; {_ADD}"
        ) from error
    except (DvcException, ImportError) as error:
        raise StudyError(f"{where}the DVC remote {name!r} ({url}): {one_line(error)}") from error
    if odb.fs.protocol == "local" and not os.path.isdir(url):
        raise StudyError(
            f"{where}the DVC remote {name!r} is {url}, which is no folder there; make it, and mount it on every node"
        )


def one_line(error: BaseException) -> str:
    """Return an error's first line, or its kind when it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _move(source: HashFileDB, target: HashFileDB, objects: set[HashInfo], cache: HashFileDB, *, shallow: bool) -> None:
    """Copy objects that `target` lacks; StudyError when `source` lacks one too, or a copy fails."""
    from dvc_data.hashfile.transfer import transfer

    lacking = (
        f"{source.fs.unstrip_protocol(source.path)} lacks files of an output; if it is a remote, is it the same place on every "
        "node? dvc push brings it what another folder holds"
    )

    def refuse_missing(status: CompareStatusResult) -> None:
        if status.missing:
            raise StudyError(lacking)

    # Without DVC's index of what a remote holds: that one believes a remote that was since emptied.
    try:
        result = transfer(source, target, objects, cache_odb=cache, shallow=shallow, validate_status=refuse_missing)
    except FileNotFoundError as error:
        raise StudyError(lacking) from error
    except OSError as error:
        raise StudyError(
            f"{target.fs.unstrip_protocol(target.path)}: {one_line(error)}; free some space or mend the access, and run again"
        ) from error
    if result.failed:
        raise StudyError(
            f"{len(result.failed)} of {len(objects)} files could not be copied from "
            f"{source.fs.unstrip_protocol(source.path)} to {target.fs.unstrip_protocol(target.path)}; run the same command again"
        )


def _remote(repo: Repo, out: Output) -> HashFileDB:
    return repo.cloud.get_remote_odb(out.remote, hash_name=out.hash_name)


def load_tree(out: Output) -> Tree | None:
    """Return the list of files of an output that is a folder, or None when the cache has none."""
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.errors import ObjectFormatError

    try:
        return Tree.load(out.local_cache, out.hash_info)
    except (FileNotFoundError, ObjectFormatError):
        return None


def pull_listing(repo: Repo, out: Output) -> None:
    """Bring the list of files of an output that is a folder into the cache; nothing for a file."""
    if out.hash_info.isdir and load_tree(out) is None:
        _move(_remote(repo, out), out.local_cache, {out.hash_info}, out.local_cache, shallow=True)


def pull_objects(repo: Repo, out: Output) -> None:
    """Bring an output's objects from its remote into the cache."""
    pull_listing(repo, out)
    _move(_remote(repo, out), out.local_cache, {out.hash_info}, out.local_cache, shallow=False)


def push_objects(repo: Repo, out: Output) -> None:
    """Copy an output's objects from the cache to its remote."""
    _move(out.local_cache, _remote(repo, out), {out.hash_info}, out.local_cache, shallow=False)


def is_pushed(repo: Repo, out: Output) -> bool:
    """Return whether the remote holds an output. A folder's list is pushed after its files, so its presence stands for them."""
    return _remote(repo, out).exists(out.hash_info.value)
