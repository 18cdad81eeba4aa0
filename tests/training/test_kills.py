"""A run that was killed and started again ends with the weights and the ledger of one that nothing befell, dropout on."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from pipeline.training.state import load_checkpoint
from tests.attempts import EVERY_STEP, NEVER, SOME_STEPS, Attempt, Runs
from tests.moments import REMOVE, RENAME, STEP, WRITE, Moment, Strike
from tests.runs import assert_nothing_is_half, assert_same

KILLS = {"pretrain": 15, "prune": 15, "qat": 5, "word": 5, "sequence": 4, "bothinit": 4, "masked": 11, "finetune": 11}


def _phases(moments: list[Moment]) -> list[str]:
    return list(dict.fromkeys(moment.phase for moment in moments))


def _drawn(moments: list[Moment], phase: str, draw: random.Random) -> int:
    """Return the index of a moment of a phase, at random; each kind of moment is as likely as another."""
    kind = draw.choice(sorted({moment.kind for moment in moments if moment.phase == phase}))
    return draw.choice([i for i, moment in enumerate(moments) if (moment.phase, moment.kind) == (phase, kind)])


def _finish(runs: Runs, name: str, folder: Path, *, after: Attempt, seconds_per_step: float = NEVER) -> None:
    """Let a run go on to its end; fail if it comes to anything else than an uninterrupted one, or makes saved steps again."""
    cleared = (folder / "out").exists()  # and the work folder may be gone
    last = runs(name, folder, seconds_per_step=seconds_per_step)
    assert last.code == 0, last.fault
    assert cleared or not {*last.steps()} & {*after.steps(saved=True)}
    assert_same(folder / "out", runs.whole(name))
    assert [path.name for path in folder.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("name", "phase", "seconds_per_step"),
    [
        ("pretrain", "trunk", SOME_STEPS),
        ("pretrain", "seconds", EVERY_STEP),
        ("prune", "tiny seconds-p50 magnitude 2", SOME_STEPS),
        ("qat", "tiny seconds-qat2 qat 1", SOME_STEPS),
        ("word", "student", SOME_STEPS),
        ("sequence", "student", EVERY_STEP),
        ("bothinit", "student", SOME_STEPS),
        ("masked", "trunk", SOME_STEPS),
        ("finetune", "seconds", EVERY_STEP),
        ("finetune", "after seconds", EVERY_STEP),
        ("finetune", "seconds-scratch", SOME_STEPS),
    ],
)
def test_a_kill_at_random_changes_nothing(
    runs: Runs, tmp_path: Path, name: str, phase: str, seconds_per_step: float
) -> None:
    moment = _drawn(runs.calm(name, seconds_per_step).moments, phase, random.Random(f"{name} {phase}"))
    strike = Strike(how="kill", moment=moment)
    killed = runs(name, tmp_path, seconds_per_step=seconds_per_step, strike=strike)
    assert killed.code == -signal.SIGKILL
    assert killed.moments[-1].phase == phase
    assert_nothing_is_half(tmp_path, runs.whole(name))
    _finish(runs, name, tmp_path, after=killed, seconds_per_step=seconds_per_step)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_seventy_kills_at_random_change_nothing(runs: Runs, tmp_path: Path) -> None:
    draw = random.Random(70)
    killed: list[Moment] = []
    for name, wanted in KILLS.items():
        here: list[Moment] = []
        life = 0
        while len(here) < wanted:
            seconds_per_step = (EVERY_STEP, SOME_STEPS)[life % 2]
            calm, folder = runs.calm(name, seconds_per_step), tmp_path / name / str(life)
            phases = _phases(calm.moments)
            # A new run is killed in every phase in turn; one that goes on, anywhere: at a moment, or when the clock says so.
            strikes = [Strike(how="kill", moment=_drawn(calm.moments, phases[life % len(phases)], draw))]
            anywhere = Strike(how="kill", moment=draw.randrange(len(calm.moments) // 2))
            whenever = Strike(how="kill", seconds=draw.uniform(0, calm.seconds))
            strikes += [draw.choice([anywhere, whenever])]
            for strike in strikes[: wanted - len(here)]:
                attempt = runs(name, folder, seconds_per_step=seconds_per_step, strike=strike)
                assert attempt.code in (-signal.SIGKILL, 0), attempt.fault
                if attempt.code and attempt.steps():  # one that made no step yet is not worth counting
                    here.append(attempt.moments[-1])
                assert_nothing_is_half(folder, runs.whole(name))
            _finish(runs, name, folder, after=attempt, seconds_per_step=seconds_per_step)
            life += 1
        assert {moment.phase for moment in here} >= set(phases), "a phase was never hit"
        killed += here
    assert len(killed) == 70
    assert {moment.kind for moment in killed} >= {STEP, WRITE, RENAME, REMOVE}


@pytest.mark.parametrize("name", ["prune", "qat", "word", "sequence", "finetune"])
def test_sigterm_saves_after_the_step_at_hand(runs: Runs, tmp_path: Path, name: str) -> None:
    moments = runs.calm(name, NEVER).moments
    steps = [i for i, moment in enumerate(moments) if moment.kind == STEP]
    strike = Strike(how="stop", moment=random.Random(name).choice(steps))
    stopped = runs(name, tmp_path, strike=strike)
    assert stopped.code == 128 + signal.SIGTERM, stopped.fault
    assert [moment.kind for moment in stopped.moments[strike.moment :]].count(STEP) == 1
    [checkpoint] = (tmp_path / "work").glob("*.pt")
    assert load_checkpoint(checkpoint)["state"]["step"] == int(moments[strike.moment].name) + 1
    _finish(runs, name, tmp_path, after=stopped)
