"""Whether a stage is up to date, told from lock entries alone: for a folder in which neither inputs nor outputs lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.orchestration.remotes import is_pushed, load_tree, pull_listing
from pipeline.orchestration.transfer import outputs_read, overlap

if TYPE_CHECKING:
    from dvc.dependency import Dependency
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import Stage
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree


def is_unchanged(repo: Repo, stage: Stage, upstream: Sequence[Stage]) -> bool:
    """Return whether `stage`, with the hashes of its entry, need not run, given those of the stages it depends on.

    DVC's ``allow_missing`` asks less: it takes a dependency that is not there for unchanged unless it is exactly an output of
    another stage, and so would overlook a new file in a folder of outputs. Outputs count as made when the remote has them.
    """
    if stage.frozen:
        return True
    if stage.is_callback or stage.always_changed or stage.changed_stage():
        return False
    outs = outputs_read(stage, upstream)
    return all(_same(repo, dep, [out for out in outs if overlap(dep, out)]) for dep in stage.deps) and all(
        out.hash_info and is_pushed(repo, out) for out in stage.outs
    )


def _same(repo: Repo, dep: Dependency, outs: list[Output]) -> bool:
    """Return whether a dependency is what its hash says: by the hashes of the outputs it is made of, or else by its files."""
    if not outs:
        return not dep.status()
    return bool(dep.hash_info) and dep.hash_info == made_of(repo, dep, outs)


def made_of(repo: Repo, dep: Dependency, outs: list[Output]) -> HashInfo | None:
    """Return the hash that DVC would give a dependency once `outs`, which it overlaps, are in place; None when they have none."""
    from dvc_data.hashfile.tree import Tree

    if not all(out.hash_info for out in outs):
        return None
    if outs[0].fs_path == dep.fs_path:
        return outs[0].hash_info
    whole = Tree()
    for out in outs:
        pull_listing(repo, out)
        tree = load_tree(out) if out.hash_info.isdir else None
        if dep.fs.isin(dep.fs_path, out.fs_path):
            found = tree.get_obj(out.local_cache, dep.fs.relparts(dep.fs_path, out.fs_path)) if tree else None
            return found.hash_info if found else None
        below = dep.fs.relparts(out.fs_path, dep.fs_path)
        for key, meta, oid in tree or [((), out.meta, out.hash_info)]:
            whole.add((*below, *key), meta, oid)
    if dep.exists:
        _add_own_files(dep, whole)
    whole.digest()
    return whole.hash_info


def _add_own_files(dep: Dependency, whole: Tree) -> None:
    """Add the project's own files in a folder of outputs to its list."""
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.tree import Tree

    _, _, present = build(dep.local_cache, dep.fs_path, dep.fs, dep.hash_name, ignore=dep.dvcignore, dry_run=True)
    assert isinstance(present, Tree)
    for key, meta, oid in present:
        if whole.get(key) is None:
            whole.add(key, meta, oid)
