"""One constant-rate trunk, and a cooldown branch off it for every budget (Haegele et al. 2405.18392).

A branch is what a run planned for its budget would have been up to the shared trunk, so a size's whole ladder of
budgets costs little more than its longest. Everything is kept under a work folder, from which a killed run resumes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.files import read_json, remove_leftovers, remove_whole, write_json
from pipeline.training.loop import Diverged, LoopOptions, train
from pipeline.training.parallel import leads, say, wait
from pipeline.training.schedules import cooldown, decay_start, trunk
from pipeline.training.state import TrainState, load_checkpoint, save_checkpoint

TRUNK = "trunk"


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A cooldown that ends at `total_steps`, the last step that its budget admits."""

    name: str
    total_steps: int


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Warm-up and decay, shared by all branches, and how many validation points the trunk gets."""

    warmup_steps: int
    decay_fraction: float
    validate_points: int


def run_branches(
    state: TrainState,
    options: LoopOptions,
    *,
    branches: list[Branch],
    schedule: Schedule,
    work: Path,
    finish: Callable[[Branch, TrainState], None],
) -> dict[str, str]:
    """Train the trunk and every branch; return {branch name: "ok" | "diverged"}.

    `finish` is called once with the state at the end of each branch and must write atomically: a branch whose status
    file lies in `work` is not trained again. State travels trunk -> branch -> back to the trunk through checkpoints. Under
    torchrun all processes call this; the first one alone calls `finish` and writes.
    """
    trunk_path, progress_path = work / "trunk.pt", options.checkpoint_path
    if progress_path is None:
        raise ValueError("branches travel through checkpoints; options.checkpoint_path says where to")
    ordered = sorted(
        branches, key=lambda b: (decay_start(b.total_steps, decay_fraction=schedule.decay_fraction), b.name)
    )
    starts = {b.name: decay_start(b.total_steps, decay_fraction=schedule.decay_fraction) for b in ordered}
    longest = max(starts.values())
    validate_at = frozenset(
        round(longest * (i + 1) / schedule.validate_points) for i in range(schedule.validate_points)
    )
    warm = partial(trunk, warmup_steps=schedule.warmup_steps)

    resumed = load_checkpoint(progress_path) if progress_path.exists() else None
    if resumed is not None and resumed["phase"] == TRUNK and trunk_path.exists():
        left = load_checkpoint(trunk_path)  # where a branch has left it, which may be further on
        resumed = max(resumed, left, key=lambda checkpoint: checkpoint["state"]["step"])
    done = {branch.name: work / f"{branch.name}.status.json" for branch in ordered}
    statuses: dict[str, str] = {name: read_json(path) for name, path in done.items() if path.exists()}
    lost_path = work / "trunk.diverged.json"
    wait()  # until every process has seen the same files
    for branch in ordered:
        if branch.name in statuses:
            continue
        decay = partial(
            cooldown,
            warmup_steps=schedule.warmup_steps,
            total_steps=branch.total_steps,
            decay_fraction=schedule.decay_fraction,
        )
        try:
            if resumed is not None and resumed["phase"] == branch.name:
                state.load_state_dict(resumed["state"])
            else:
                if resumed is not None and resumed["phase"] == TRUNK:
                    state.load_state_dict(resumed["state"])
                elif lost_path.exists():
                    raise Diverged("the trunk that it would have left diverged")
                elif trunk_path.exists():
                    state.load_state_dict(load_checkpoint(trunk_path)["state"])
                try:
                    train(
                        state, options, phase=TRUNK, until=starts[branch.name], schedule=warm, validate_at=validate_at
                    )
                except Diverged as fault:
                    if leads():
                        write_json(lost_path, str(fault))
                    wait()
                    raise
                save_checkpoint(trunk_path, {"phase": TRUNK, "state": state.state_dict()})
            resumed = None
            ends = frozenset({branch.total_steps})
            train(state, options, phase=branch.name, until=branch.total_steps, schedule=decay, validate_at=ends)
            if leads():
                finish(branch, state)
            statuses[branch.name] = "ok"
        except Diverged as fault:
            say(f"{branch.name}: {fault}; the run is marked diverged and the study goes on")
            statuses[branch.name] = "diverged"
        if leads():
            write_json(done[branch.name], statuses[branch.name])
            progress_path.unlink(missing_ok=True)
    return statuses


def curve_points(state: TrainState, phase: str) -> list[dict[str, Any]]:
    """Return the points of the loss curve that were taken in `phase`."""
    return [point for point in state.curve if point["phase"] == phase]


def begin(work: Path, *, out: Path) -> None:
    """Make a run's work folder, or tidy the one it goes on from: what a kill left half-written there and beside `out` goes."""
    work.mkdir(parents=True, exist_ok=True)
    remove_leftovers(work)
    remove_leftovers(out.parent, out.name)


def clear(work: Path) -> None:
    """Remove a finished run's work folder; half of one would pass for an unfinished run's."""
    remove_whole(work)
