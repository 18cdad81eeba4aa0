"""The graph in parallel leaves what DVC alone would have left; faults stay where they are."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from pipeline.errors import StudyError
from pipeline.orchestration.board import Running
from pipeline.orchestration.coordinator import Report
from tests.dvc_projects import Project, Silent, stage, wait_for

pytestmark = pytest.mark.usefixtures("ray_session")

MEETING = (
    "touch {me}.here; for i in $(seq 200); do test -e {other}.here && break; sleep 0.05; done; test -e {other}.here"
)
"""Succeeds only when the other stage runs at the same time."""

DIAMOND = {
    "corpus": stage("printf 'a\\nb\\n' > corpus", outs=["corpus"]),
    "train": {
        "foreach": ["x", "y", "z"],
        "do": stage(
            "mkdir -p models/${item} && cp corpus models/${item}/m && echo ${item} >> models/${item}/m",
            deps=["corpus"],
            outs=["models/${item}"],
            params=["rates.${item}"],
        ),
    },
    "table": stage(
        "cat models/*/m > table.csv && echo '{\"rows\": 9}' > metrics.json && echo 'n,v' > curve.csv",
        deps=["models/x", "models/y", "models/z"],
        outs=[{"table.csv": {"cache": False}}],
        metrics=[{"metrics.json": {"cache": False}}],
        plots=[{"curve.csv": {"cache": False}}],
        meta={"exclusive": True},
    ),
    "card": stage("wc -l < table.csv >> card.txt", deps=["table.csv"], outs=[{"card.txt": {"persist": True}}]),
    "apart": stage("echo there > here", outs=["here"], wdir="folder"),
}


def diamond(folder: Path) -> Project:
    project = Project(folder, DIAMOND)
    (folder / "folder").mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump({"rates": {"x": 0.1, "y": 1.0e-05, "z": [1, {"deep": None}]}}))
    return project


def statuses(report: Report) -> dict[str, str]:
    return {name: str(outcome.status) for name, outcome in report.outcomes.items()}


def test_the_lock_is_that_of_dvc_and_dvc_has_nothing_left_to_do(tmp_path: Path) -> None:
    alone, together = diamond(tmp_path / "alone"), diamond(tmp_path / "together")
    alone.dvc("repro", "-q")
    report, view = together.reproduce()
    assert report.exit_code == 0
    assert set(statuses(report).values()) == {"ran"}
    order = [outcome.name for outcome in view.order]
    assert order.index("corpus") < min(order.index(f"train@{key}") for key in "xyz")
    assert order.index("table") < order.index("card")
    for name in ("dvc.lock", ".gitignore", "models/.gitignore", "folder/.gitignore", "table.csv", "metrics.json"):
        assert sorted(together.read(name).split("\n")) == sorted(alone.read(name).split("\n")), name
    assert together.read("dvc.lock") == alone.read("dvc.lock")
    assert "up to date" in together.dvc("status")
    assert "Running stage" not in together.dvc("repro")
    assert together.read("dvc.lock") == alone.read("dvc.lock")
    assert "metrics.json" in together.dvc("metrics", "show")


def test_what_is_up_to_date_is_left_alone_and_what_was_made_before_is_restored(tmp_path: Path) -> None:
    project = diamond(tmp_path)
    project.reproduce()
    first, before = project.read("dvc.lock"), (tmp_path / "dvc.lock").stat().st_mtime_ns
    report, _ = project.reproduce()
    assert set(statuses(report).values()) == {"unchanged"}
    assert (tmp_path / "dvc.lock").stat().st_mtime_ns == before

    (tmp_path / "models/y/m").unlink()
    report, _ = project.reproduce("train@y")
    assert statuses(report) == {"corpus": "unchanged", "train@y": "restored"}
    assert project.read("models/y/m") == "a\nb\ny\n"

    (tmp_path / "dvc.lock").unlink()
    report, _ = project.reproduce("train@x", "train@y", "train@z")
    assert statuses(report) == {"corpus": "ran", "train@x": "restored", "train@y": "restored", "train@z": "restored"}
    assert first.startswith(project.read("dvc.lock"))


def test_dvc_goes_on_from_what_is_done_and_the_other_way_round(tmp_path: Path) -> None:
    project = diamond(tmp_path)
    project.reproduce("train@y")
    assert "Running stage 'train@y'" not in project.dvc("repro", "train@y", "train@x")
    report, _ = project.reproduce("table")
    assert statuses(report) | {"train@z": "ran", "table": "ran"} == dict.fromkeys(statuses(report), "unchanged") | {
        "train@z": "ran",
        "table": "ran",
    }
    assert "up to date" in project.dvc("status", "table")


def test_meta_changes_nothing_for_dvc(tmp_path: Path) -> None:
    project = Project(tmp_path, {"one": stage("echo 1 > one", outs=["one"])})
    project.reproduce()
    project.write({"one": stage("echo 1 > one", outs=["one"], meta={"cpus": 2, "exclusive": True, "memory_bytes": 9})})
    assert "up to date" in project.dvc("status")


def test_independent_stages_run_side_by_side_and_exclusive_ones_alone(tmp_path: Path) -> None:
    watched = "touch {name}.on; sleep 0.5; ls *.on > {name}; rm {name}.on"
    project = Project(
        tmp_path,
        {
            "left": stage(MEETING.format(me="left", other="right")),
            "right": stage(MEETING.format(me="right", other="left")),
            "time": stage(watched.format(name="time"), outs=["time"], meta={"exclusive": True}),
            **{f"other{n}": stage(watched.format(name=f"other{n}"), outs=[f"other{n}"]) for n in range(4)},
        },
    )
    report, _ = project.reproduce()
    assert report.exit_code == 0
    assert project.read("time") == "time.on\n"
    assert not [name for name in tmp_path.glob("other*") if "time.on" in name.read_text()]


def test_a_stage_has_as_many_threads_as_cpus(tmp_path: Path) -> None:
    say = "echo $OMP_NUM_THREADS $DVC_STAGE > {0}"
    project = Project(
        tmp_path,
        {
            "one": stage(say.format("one"), outs=["one"]),
            "two": stage(say.format("two"), outs=["two"], meta={"cpus": 2}),
            "all": stage(say.format("all"), outs=["all"], meta={"exclusive": True}),
        },
    )
    project.reproduce()
    assert [project.read(name) for name in ("one", "two", "all")] == ["1 one\n", "2 two\n", "1 all\n"]


def test_a_failure_is_told_with_its_last_lines_and_only_its_dependents_are_left_out(tmp_path: Path) -> None:
    project = Project(
        tmp_path,
        {
            "bad": stage("echo first; echo no such corpus >&2; exit 3", outs=["bad"]),
            "after": stage("cp bad after", deps=["bad"], outs=["after"]),
            "later": stage("cp after later", deps=["after"], outs=["later"]),
            "good": stage("echo good > good", outs=["good"]),
            "fine": stage("cp good fine", deps=["good"], outs=["fine"]),
            "forgetful": stage("true", outs=["never-made"]),
        },
    )
    report, view = project.reproduce()
    assert report.exit_code == 1
    assert statuses(report) == {
        "bad": "failed",
        "after": "skipped",
        "later": "skipped",
        "good": "ran",
        "fine": "ran",
        "forgetful": "failed",
    }
    bad = report.outcomes["bad"]
    assert "exit code 3" in bad.cause
    assert bad.tail[-2:] == ("first", "no such corpus")
    assert "no such corpus" in Path(bad.log).read_text()
    assert any(bad.log in line for line in view.lines)
    assert "never-made" in report.outcomes["forgetful"].cause
    assert set(yaml.safe_load(project.read("dvc.lock"))["stages"]) == {"good", "fine"}


class Killer(Silent):
    """A view that kills the worker of `train` once its command runs."""

    def running(self, stages: Sequence[Running]) -> None:
        before = len(self.workers)
        super().running(stages)
        if "train" in self.workers and not before:
            os.kill(self.workers["train"], signal.SIGKILL)


def test_a_killed_worker_is_replaced_and_its_command_ends_before_the_next_begins(tmp_path: Path) -> None:
    (tmp_path / "train.sh").write_text(
        """\
mkdir -p work; test -e work/running && exit 9; touch work/running; echo $$ >> work/pids
trap 'sleep 0.7; echo saved >> work/state; rm work/running; exit 143' TERM
if test -e work/state; then cp work/state out; rm work/running; else while true; do sleep 0.05; done; fi
"""
    )
    project = Project(tmp_path, {"train": stage("sh train.sh", deps=["train.sh"], outs=["out"])})
    report, view = project.reproduce(view=Killer())
    assert statuses(report) == {"train": "ran"}
    assert report.outcomes["train"].attempts == 2
    assert project.read("out") == "saved\n"
    assert len(project.read("work/pids").split()) == 2
    assert any("attempt 2" in line for line in view.lines)
    assert "up to date" in project.dvc("status")


def test_a_second_run_says_who_holds_the_lock_and_dvc_is_refused_too(tmp_path: Path) -> None:
    project = Project(
        tmp_path, {"wait": stage("touch on; while test ! -e go; do sleep 0.05; done; echo > out", outs=["out"])}
    )
    said: list[str] = []

    def meanwhile() -> None:
        try:
            wait_for((tmp_path / "on").exists)
            second = project.start()
            said.append(second.communicate(timeout=60)[1])
            said.append(str(second.returncode))
            said.append(project.dvc("repro", fails=True))
        finally:
            (tmp_path / "go").touch()

    other = threading.Thread(target=meanwhile)
    other.start()
    report, _ = project.reproduce()
    other.join()
    assert report.exit_code == 0
    assert len(said[0].splitlines()) == 1
    assert f"process {os.getpid()} on" in said[0]
    assert said[1] == "1"
    assert f"PID {os.getpid()}" in said[2]
    assert "up to date" in project.dvc("status")


@pytest.mark.parametrize(
    ("stages", "targets", "says"),
    [
        ({"one": stage("echo", outs=["one"])}, ("oen",), "did you mean 'one'"),
        ({"one": stage("echo", outs=["one"], meta={"cpus": "many"})}, (), "meta.cpus"),
        ({"one": stage("echo", outs=["one"], meta={"gpus": 512})}, (), "512 GPUs"),
        ({"one": {"outs": ["one"]}}, (), "dvc.yaml"),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, stages: dict[str, object], targets: tuple[str, ...], says: str
) -> None:
    project = Project(tmp_path, stages)
    with pytest.raises(StudyError) as error:
        project.reproduce(*targets)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_frozen_and_always_changed_stages_are_treated_as_by_dvc(tmp_path: Path) -> None:
    stages = {
        "source": stage("echo 1 > source", outs=["source"]),
        "frozen": stage("cp source frozen", deps=["source"], outs=["frozen"], frozen=True),
        "always": stage("echo again >> count; echo 2 > always", outs=["always"], always_changed=True),
    }
    alone, together = Project(tmp_path / "alone", stages), Project(tmp_path / "together", stages)
    for project in (alone, together):
        (project.folder / "frozen").write_text("0\n")
    alone.dvc("repro", "-q")
    together.reproduce()
    assert together.read("dvc.lock") == alone.read("dvc.lock")
    report, _ = together.reproduce()
    assert statuses(report) == {"source": "unchanged", "frozen": "unchanged", "always": "ran"}
    assert together.read("count") == "again\nagain\n"
