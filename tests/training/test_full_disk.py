"""A disk that is full at any write of a run costs no checkpoint: with some space, the run ends as if there had been enough."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.attempts import SOME_STEPS, Runs
from tests.moments import WRITE, Moment, Strike
from tests.runs import assert_nothing_is_half, assert_same


def _room(what: Moment) -> int:
    """Return how many bytes there is room for: none, or the beginning of a file that holds weights."""
    return 1000 if what.name.endswith((".pt", ".safetensors")) else 0


def _assert_it_only_delays(runs: Runs, name: str, folder: Path, moment: int) -> None:
    """Let the disk be full from a moment on, then make space; fail if that is not said, or costs what was saved."""
    what = runs.calm(name, SOME_STEPS).moments[moment]
    strike = Strike(how="full", moment=moment, free_bytes=_room(what))
    failed = runs(name, folder, seconds_per_step=SOME_STEPS, strike=strike)
    assert failed.code == 1, f"{what}: {failed.fault or 'was written to a full disk'}"
    assert "the disk is full" in failed.fault
    assert_nothing_is_half(folder, runs.whole(name))
    assert not (folder / "out").exists()
    assert not list(folder.rglob("*.tmp")), "what was begun takes up space"
    last = runs(name, folder, seconds_per_step=SOME_STEPS)
    assert last.code == 0, last.fault
    assert not {*last.steps()} & {*failed.steps(saved=True)}, f"{what}: steps were made twice"
    assert_same(folder / "out", runs.whole(name))
    assert [path.name for path in folder.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("pretrain", "trunk.pt"),
        ("pretrain", "seconds.status.json"),
        ("pretrain", "metrics.json"),
        ("prune", "seconds-*.pt"),
        ("prune", "seconds-p50.status.json"),
        ("word", "progress.pt"),
        ("sequence", "model.safetensors"),
        ("finetune", "seconds-scratch.pt"),
        ("finetune", "seconds.status.json"),
    ],
)
def test_a_full_disk_delays_a_run_and_changes_nothing(runs: Runs, tmp_path: Path, name: str, file: str) -> None:
    moments = enumerate(runs.calm(name, SOME_STEPS).moments)
    last = max(i for i, moment in moments if moment.kind == WRITE and fnmatch(moment.name, file))
    _assert_it_only_delays(runs, name, tmp_path, last)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["pretrain", "prune", "qat", "word", "sequence", "masked", "finetune"])
def test_a_full_disk_at_any_write_delays_a_run_and_changes_nothing(runs: Runs, tmp_path: Path, name: str) -> None:
    writes = [i for i, moment in enumerate(runs.calm(name, SOME_STEPS).moments) if moment.kind == WRITE]
    assert len(writes) > 10
    for moment in writes:
        _assert_it_only_delays(runs, name, tmp_path / str(moment), moment)
