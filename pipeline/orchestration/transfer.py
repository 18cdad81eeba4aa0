"""A stage's inputs and outputs through the DVC remote, for workers whose folders share nothing else.

What a stage made is known by its entry of dvc.lock, which travels with the task; the objects that the entry names travel through
the remote. That holds for outputs with ``cache: false`` too: DVC's own run cache keeps metrics and plots as objects, so they have a
place there, whatever their size, and are checked against their hash like everything else. In a folder they are plain copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import StudyError
from pipeline.orchestration import locks
from pipeline.orchestration.remotes import is_pushed, load_tree, pull_objects, push_objects

if TYPE_CHECKING:
    from dvc.dependency import Dependency
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import Stage
    from dvc_data.hashfile.db import HashFileDB

Entry = Mapping[str, Any]
"""A stage's part of dvc.lock: its command, and the hashes of its dependencies, parameters and outputs."""


def fill(stage: Stage, entry: Entry | None) -> None:
    """Give a stage of dvc.yaml the hashes of `entry`, or none at all, in place of those it was loaded with."""
    from dvc.stage.loader import StageLoader

    for item in (*stage.deps, *stage.outs):
        item.clear()
    stage.cmd_changed = False
    if entry:
        StageLoader.fill_from_lock(stage, dict(entry))
        stage.cmd_changed = entry.get("cmd") != stage.cmd


def outputs_read(stage: Stage, upstream: Iterable[Stage]) -> list[Output]:
    """Return the outputs of `upstream` that a dependency of `stage` is, holds, or lies in."""
    outs = [out for above in upstream for out in above.outs]
    return [out for out in outs if any(overlap(dep, out) for dep in stage.deps)]


def overlap(dep: Dependency, out: Output) -> bool:
    """Return whether a dependency is an output, holds it, or lies in it."""
    return dep.fs.isin_or_eq(dep.fs_path, out.fs_path) or dep.fs.isin(out.fs_path, dep.fs_path)


def fetch_inputs(repo: Repo, stage: Stage, upstream: Iterable[Stage]) -> None:
    """Make what `stage` reads from other stages and from ``.dvc`` files present in this folder.

    `upstream` are the stages and ``.dvc`` files it depends on, with their hashes; others do no harm. An output with
    ``persist: true`` is an input too: its stage goes on from what it left. Processes of one node that want the same output at
    once wait for each other. StudyError names a dependency that neither the remote nor the project's own files bring.
    """
    wanted = outputs_read(stage, upstream)
    for out in (*wanted, *(out for out in stage.outs if out.persist and out.hash_info)):
        if not out.hash_info:
            raise StudyError(
                f"{out}: {stage.addressing} reads it, but dvc.lock has no hash for it; run {out.stage.addressing}"
            )
        bring(repo, out)
    for dep in stage.deps:
        if dep.protocol == "local" and not dep.exists:
            raise StudyError(
                f"{dep}: {stage.addressing} reads it, and it is not among the files that nodes get (what git ignores stays); "
                f"dvc add {dep}, or commit it"
            )


def push_outputs(repo: Repo, stage: Stage) -> None:
    """Copy the outputs of `stage`, which ran in this folder and has been saved, to the remote; StudyError when one may not be."""
    for out in stage.outs:
        if not out.can_push:
            raise StudyError(
                f"{out}: push: false keeps it from the remote, and several nodes exchange through it; remove that"
            )
        if not out.use_cache:
            _keep_copy(out)
        push_objects(repo, out)


def push_known(repo: Repo, stages: Sequence[Stage]) -> None:
    """Copy to the remote what earlier runs left in this folder's cache of the outputs of `stages`, so that workers find it.

    What is not there, or not as dvc.lock has it, is left: its stage is not up to date, and runs.
    """
    for out in (out for stage in stages for out in stage.outs):
        if not out.hash_info or not out.can_push or is_pushed(repo, out):
            continue
        if not out.use_cache and out.exists and not out.changed_checksum():
            _keep_copy(out)
        if _is_cached(out):
            push_objects(repo, out)


def ignore_outputs(repo: Repo, stages: Sequence[Stage]) -> None:
    """Write the ``.gitignore`` lines that DVC would, stage by stage, before any of `stages` runs.

    They may lie in a folder that another stage depends on, and so be part of its hash: it must not matter which stage ends first.
    """
    from scmrepo.noscm import NoSCM

    if isinstance(repo.scm, NoSCM):
        return
    with repo.scm_context(quiet=True):
        for out in (out for stage in stages for out in stage.outs if out.use_scm_ignore):
            if not repo.scm.is_ignored(out.fspath):
                Path(out.fs_path).parent.mkdir(parents=True, exist_ok=True)
            out.ignore()
        repo.scm._reset()  # else it does not see its own lines, and adds them once more


def receive_outputs(repo: Repo, stage: Stage, entry: Entry, *, ran: bool = True) -> None:
    """Put the outputs of a `stage` into this folder and its cache, and a run elsewhere into its run cache, as though it was here.

    `stage` has the hashes of `entry` afterwards. Files in the way are replaced, as `dvc repro` replaces them. The folder is the
    current one: DVC's run cache looks for dvc.yaml there.
    """
    fill(stage, entry)
    for out in stage.outs:
        bring(repo, out)
    # What `dvc repro` would remember: nothing for plain outputs without a cache, see Stage.run of DVC.
    if ran and all(out.use_cache or out.is_metric or out.is_plot for out in stage.outs):
        repo.stage_cache.save(stage)


def bring(repo: Repo, out: Output) -> None:
    """Make an output with a hash present in this folder: from the cache, and from the remote what the cache lacks."""
    from dvc_data.hashfile.checkout import CheckoutError, LinkError, checkout

    lock = Path(repo.cache.local_cache_dir, "locks", f"{out.hash_info.value}.lock")
    with locks.exclusive(lock, waits=lambda: True):
        pull_objects(repo, out)
        found = load_tree(out) if out.hash_info.isdir else out.local_cache.get(out.hash_info.value)
        assert found is not None
        try:
            checkout(out.fs_path, out.fs, found, _cache(out), force=True, ignore=out.dvcignore, state=repo.state)
        except (CheckoutError, LinkError) as error:
            raise StudyError(
                f"{out}: could not be written ({error}); free some space and run the same command again"
            ) from error
        if out.isfile() and out.meta.isexec:
            out.local_cache.set_exec(out.fs_path)


def _cache(out: Output) -> HashFileDB:
    """Return the cache to check `out` out of: by copies alone where the output is to be a plain file."""
    from dvc_data.hashfile.db import get_odb

    cache = out.local_cache
    return cache if out.use_cache else get_odb(cache.fs, cache.path, state=cache.state, type=["copy"])


def _keep_copy(out: Output) -> None:
    """Copy an output without a cache into the cache, as DVC's run cache does with metrics and plots."""
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.transfer import transfer

    staging, _, found = build(_cache(out), out.fs_path, out.fs, out.hash_name, ignore=out.dvcignore)
    if found.hash_info != out.hash_info:
        raise StudyError(f"{out}: changed after {out.stage.addressing} ended; run the same command again")
    transfer(staging, _cache(out), {found.hash_info}, shallow=False)


def _is_cached(out: Output) -> bool:
    tree = load_tree(out) if out.hash_info.isdir else None
    if out.hash_info.isdir and tree is None:
        return False
    files = {oid for _, _, oid in tree} if tree is not None else {out.hash_info}
    return all(out.local_cache.exists(oid.value) for oid in files)
