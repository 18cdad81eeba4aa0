"""What a run says, line by line and on a terminal."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.orchestration.board import Board, Running
from pipeline.orchestration.command import last_lines
from pipeline.orchestration.estimates import seconds_left
from pipeline.orchestration.live import LiveView
from pipeline.orchestration.records import Outcome, Resources, StageTask, Status
from pipeline.orchestration.view import View, duration

NAMES = ("corpus", "x", "y", "table")
UPSTREAM = {"corpus": [], "x": ["corpus"], "y": ["corpus"], "table": ["x", "y"]}
TASKS = {
    name: StageTask(name=name, path="dvc.yaml", definition={}, lock_entry=None, resources=Resources()) for name in NAMES
}


def test_a_progress_bar_leaves_its_latest_state(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"> train\nloading\n\n 10%\r 55%\r 90%\r")
    assert last_lines(log, 2) == ("loading", " 90%")
    log.write_bytes(b"> train\n\r 55%\n\r inner 10%\x1b[A\n\r          \r\x1b[A\r 60%")
    assert last_lines(log, 1) == (" 60%",)
    assert last_lines(tmp_path / "none", 2) == ()


@pytest.mark.parametrize(("seconds", "text"), [(7.26, "7.3 s"), (245, "4:05"), (3845, "1:04:05")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_time_left_is_bounded_by_work_and_by_the_longest_chain() -> None:
    seconds = {"corpus": 10.0, "x": 60.0, "y": 20.0, "table": 5.0}
    every = {"upstream": UPSTREAM, "seconds": seconds}
    assert seconds_left(NAMES, {}, **every, jobs=1) == 95
    assert seconds_left(NAMES, {}, **every, jobs=2) == 75
    assert seconds_left(["table"], {"x": 40.0, "y": 30.0}, **every, jobs=2) == 25
    assert seconds_left(NAMES, {}, upstream=UPSTREAM, seconds={}, jobs=2) is None


def test_the_board_keeps_what_runs() -> None:
    board = Board()
    for started, name in ((2.0, "y"), (1.0, "x")):
        board.started(Running(name=name, started=started, where="here, process 1"))
    board.says("x", "step 3")
    board.says("gone", "nothing")
    assert [(stage.name, stage.line) for stage in board.running()] == [("x", "step 3"), ("y", "")]
    board.ended("x")
    board.ended("x")
    assert [stage.name for stage in board.running()] == ["y"]


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    view = View()
    view.begin(TASKS, UPSTREAM, {})
    view.running([Running(name="corpus", started=0.0, where="here")])
    view.running([Running(name="corpus", started=0.0, where="here")])
    view.ended(Outcome(name="corpus", status=Status.RAN, seconds=2.0, attempts=2))
    view.ended(
        Outcome(name="x", status=Status.FAILED, cause="exit code 1: train", tail=("no memory",), log="logs/x.log")
    )
    view.ended(Outcome(name="table", status=Status.SKIPPED, cause="needs x"))
    view.close(seconds=3.0, signal=2, again="tlc reproduce")
    out, err = capsys.readouterr()
    assert [line.strip() for line in out.splitlines()] == [
        "started  corpus",
        "ran  corpus in 2.0 s at attempt 2, a worker was killed (1/4)",
        "failed  x in 0.0 s (2/4): exit code 1: train",
        "| no memory",
        "its whole log: logs/x.log",
        "skipped  table (3/4): needs x",
        "1 ran, 1 failed, 1 skipped, 1 not started in 3.0 s",
    ]
    assert "go on with: tlc reproduce" in err


def test_the_live_view_shows_rows_counts_and_time_left() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with LiveView(jobs=2, console=console) as view:
        view.begin(TASKS, UPSTREAM, {"x": 200.0, "y": 100.0})
        view.ended(Outcome(name="corpus", status=Status.UNCHANGED))
        started = time.time() - 65
        view.running(
            [
                Running(name="x", started=started, where="here", line="step [3]"),
                Running(name="y", started=started, where="here"),
            ]
        )
        page = io.StringIO()
        Console(file=page, width=100).print(view._picture())
    rows = page.getvalue().splitlines()
    assert rows[0].split()[:4] == ["x", "1:05", "step", "[3]"]
    assert rows[1].split() == ["y", "1:05"]
    assert rows[2].startswith("1 waiting, 2 running, 1 done, 0 failed; about 2:15 left")
