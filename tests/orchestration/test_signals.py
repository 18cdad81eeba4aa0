"""However a run is stopped, running stages save, nothing is left behind, and the same command goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.dvc_projects import Project, alive, stage, wait_for

TRAIN = """\
trap 'sleep 0.3; echo saved >> $1.state; exit 143' TERM
echo $$ >> pids
if test -e $1.state; then cp $1.state $1; else while true; do sleep 0.05 & echo $! >> pids; wait; done; fi
"""
STUBBORN = "trap '' TERM; echo $$ >> pids; while true; do sleep 0.05; done"


def project(folder: Path) -> Project:
    pytest.importorskip("ray")
    made = Project(
        folder,
        {
            "first": stage("echo 1 > first", outs=["first"]),
            "x": stage("sh train.sh x; echo", deps=["first"], outs=["x"]),
            "y": stage("sh train.sh y", deps=["first"], outs=["y"]),
            "table": stage("cat x y > table", deps=["x", "y"], outs=["table"]),
        },
    )
    (folder / "train.sh").write_text(TRAIN)
    return made


def processes(made: Project) -> list[int]:
    """Return what runs in the project's folder, but for Ray's agents: killed Ray's own end a minute after it."""
    found = []
    for process in psutil.process_iter(["pid", "cwd", "status", "name"]):
        here = process.info["cwd"] == str(made.folder) and process.info["status"] != psutil.STATUS_ZOMBIE
        if here and not process.info["name"].endswith("Agent"):
            found.append(process.info["pid"])
    return found


def commands(made: Project) -> list[int]:
    """Return the stages' processes that were started and run still."""
    noted = made.folder / "pids"
    return [pid for pid in map(int, noted.read_text().split()) if alive(pid)] if noted.exists() else []


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_lets_stages_save_and_the_same_command_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    made = project(tmp_path)
    started = made.start("--jobs", "2")
    wait_for(lambda: len(commands(made)) >= 4)
    started.send_signal(number)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 128 + number, out + err
    assert "tlc reproduce --jobs 2" in err
    assert not processes(made)
    assert not (tmp_path / "x").exists()
    assert made.read("x.state") == made.read("y.state") == "saved\n"
    assert "first:" in made.read("dvc.lock")

    again = made.start("--jobs", "2")
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0, out + err
    assert "unchanged  first" in out
    assert made.read("table") == "saved\nsaved\n"
    assert "up to date" in made.dvc("status")
    assert not processes(made)


@pytest.mark.slow
def test_a_second_signal_kills(tmp_path: Path) -> None:
    made = Project(tmp_path, {"train": stage(STUBBORN, outs=["never"])})
    started = made.start()
    wait_for(lambda: len(commands(made)) == 1)
    started.send_signal(signal.SIGINT)
    assert started.stderr is not None
    assert "stopping" in started.stderr.readline()
    started.send_signal(signal.SIGINT)
    started.communicate(timeout=60)
    assert started.returncode == 130
    assert not processes(made)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["coordinator", "raylet"])
def test_when_it_is_killed_its_stages_save_and_end(tmp_path: Path, victim: str) -> None:
    made = project(tmp_path)
    started = made.start("--jobs", "2")
    wait_for(lambda: len(commands(made)) >= 4)
    pid = started.pid
    if victim == "raylet":
        children = psutil.Process(started.pid).children(recursive=True)
        pid = next(process.pid for process in children if process.name() == "raylet")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not commands(made))
    assert started.wait(timeout=60) != 0
    wait_for(lambda: not processes(made))
    assert made.read("x.state") == made.read("y.state") == "saved\n"
    made.dvc("repro", "-q")
    assert made.read("table") == "saved\nsaved\n"
