"""`tlc reproduce --address` on two nodes of this machine that share nothing but Ray and a remote."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ray = pytest.importorskip("ray")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

START = {"a": 1, "b": 2, "c": 3, "d": 4}
STAGES: dict[str, Any] = {
    "draw": {
        "foreach": START,
        "do": {
            "cmd": "python draw.py ${key} ${item}",
            "params": ["start.${key}"],
            "deps": ["draw.py", "data.csv"],
            "outs": ["made/${key}"],
        },
    },
    "sum": {
        "cmd": "python total.py",
        "deps": ["made", "total.py"],
        "outs": [{"total.txt": {"cache": False}}],
        "metrics": [{"total.json": {"cache": False}}],
    },
}
DRAW = """\
import os, sys, time
from pathlib import Path
key, number = sys.argv[1:]
print("drawing", key, flush=True)
if os.path.exists(os.environ["TLC_TEST_FOLDER"] + "/fail-" + key):
    sys.exit("nothing to draw from")
out = Path("made", key)
out.mkdir(parents=True)
(out / "numbers.txt").write_text(f"{number} {Path('data.csv').read_text()}")
with open(os.environ["TLC_TEST_FOLDER"] + "/" + key, "a") as tell:
    tell.write(f"{os.getcwd()}\\n")
step = Path(".work", key)
step.parent.mkdir(exist_ok=True)
done = int(step.read_text()) if step.exists() else 0
print("from step", done, flush=True)
for now in range(done, 40):
    time.sleep(float(os.environ["TLC_TEST_SECONDS"]) / 40)
    step.write_text(str(now + 1))
"""
TOTAL = """\
import json
from pathlib import Path
total = sum(int(path.read_text().split()[0]) for path in Path("made").rglob("numbers.txt"))
Path("total.txt").write_text(f"{total}\\n")
Path("total.json").write_text(json.dumps({"total": total}))
"""


def dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def make_project(root: Path, remote: Path) -> Path:
    root.mkdir()
    remote.mkdir(exist_ok=True)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    dvc(root, "init", "-q")
    dvc(root, "remote", "add", "-d", "shared", str(remote))
    (root / "data.csv").write_text("7\n")
    (root / "draw.py").write_text(DRAW)
    (root / "total.py").write_text(TOTAL)
    (root / "params.yaml").write_text(yaml.safe_dump({"start": START}))
    stages = {**STAGES, "draw": STAGES["draw"] | {"foreach": "${start}"}}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    dvc(root, "add", "-q", "data.csv")
    return root


class Nodes:
    """Two nodes of one CPU each, with folders of their own, or one for both."""

    def __init__(self, place: Path, *, shared: bool) -> None:
        from ray.cluster_utils import Cluster

        self.folders = [place / "first", place / ("first" if shared else "second")]
        self.cluster = Cluster(
            initialize_head=True,
            connect=False,
            shutdown_at_exit=False,
            head_node_args={"num_cpus": 1, "include_dashboard": False, "env_vars": self._variables(0)},
        )
        self.second = self.cluster.add_node(num_cpus=1, env_vars=self._variables(1))

    def _variables(self, number: int) -> dict[str, str]:
        return {"TLC_NODE_FOLDER": str(self.folders[number])}

    def kill_second(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)


@pytest.fixture
def nodes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path, shared=getattr(request, "param", False))
    yield nodes
    nodes.cluster.shutdown()


Reproduce = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Reproduce:
    """Return a function that starts `tlc reproduce` in a project."""
    (tmp_path / "told").mkdir()

    def start(root: Path, *arguments: str, seconds: float = 1.0) -> subprocess.Popen[str]:
        variables = {"TLC_TEST_FOLDER": str(tmp_path / "told"), "TLC_TEST_SECONDS": str(seconds)}
        return subprocess.Popen(
            [sys.executable, "-m", "stages.cli", "reproduce", *arguments],
            cwd=root,
            env=os.environ | variables | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for a run that is to go well, and return what it said."""
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 0, text
    return text


def ends(text: str) -> Counter[str]:
    """Count how stages ended."""
    return Counter(re.findall(r"^ *(\w+)  [\w@]+.* \(\d/5\)", text, re.MULTILINE))


def wait_for(path: Path) -> None:
    """Wait until a stage has told that it runs."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.05)


def test_two_nodes_make_what_one_folder_would(tmp_path: Path, nodes: Nodes, start: Reproduce) -> None:
    project, alone = (make_project(tmp_path / name, tmp_path / f"remote-{name}") for name in ("project", "alone"))
    told = {"TLC_TEST_FOLDER": str(tmp_path), "TLC_TEST_SECONDS": "0"}
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=alone, check=True, env=os.environ | told)

    text = ended(start(project, "--address", nodes.cluster.address))
    assert ends(text) == Counter(ran=5), text
    for name in ("dvc.lock", "total.txt", "total.json", ".gitignore", "made/.gitignore", "made/c/numbers.txt"):
        assert (project / name).read_bytes() == (alone / name).read_bytes(), name
    assert dvc(project, "status").strip() == "Data and pipelines are up to date."
    where = {(tmp_path / "told" / key).read_text().strip() for key in START}
    assert {
        next(n for n, folder in enumerate(nodes.folders) if Path(path).is_relative_to(folder)) for path in where
    } == {0, 1}
    assert not [path for path in where if Path(path).exists()], "a stage's folder goes when it is done"
    logs = [project / ".dvc/tmp/reproduce/logs" / f"draw@{key}.log" for key in START]
    assert all("drawing" in log.read_text() for log in logs)
    assert len({log.read_text().splitlines()[0] for log in logs}) == 2, "the log begins with its node"

    text = ended(start(project, "--address", nodes.cluster.address))
    assert ends(text) == Counter(unchanged=5), text


def test_a_failed_stage_says_why_and_the_rest_goes_on(tmp_path: Path, nodes: Nodes, start: Reproduce) -> None:
    project = make_project(tmp_path / "project", tmp_path / "remote")
    (tmp_path / "told/fail-b").touch()
    process = start(project, "--address", nodes.cluster.address, seconds=0)
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 1, text
    assert ends(text) == Counter(ran=3, failed=1, skipped=1), text
    assert "| nothing to draw from" in text
    log = project / ".dvc/tmp/reproduce/logs/draw@b.log"
    assert f"its whole log: {log}" in text
    assert log.read_text().endswith("drawing b\nnothing to draw from\n")

    (tmp_path / "told/fail-b").unlink()
    text = ended(start(project, "--address", nodes.cluster.address, seconds=0))
    assert ends(text) == Counter(unchanged=3, ran=2), text
    assert (project / "total.txt").read_text() == "10\n"


@pytest.mark.parametrize("nodes", [False, True], indirect=True, ids=["own folders", "one folder"])
def test_a_dead_nodes_stage_runs_on_the_other(tmp_path: Path, nodes: Nodes, start: Reproduce) -> None:
    project = make_project(tmp_path / "project", tmp_path / "remote")
    process = start(project, "--address", nodes.cluster.address, seconds=8)
    for key in "ab":
        wait_for(tmp_path / "told" / key)
    time.sleep(2)  # some steps
    nodes.kill_second()
    text = ended(process)
    assert ends(text) == Counter(ran=5), text
    attempts = {key: (tmp_path / "told" / key).read_text().splitlines() for key in "abcd"}
    (lost,) = (key for key in "abcd" if len(attempts[key]) == 2)
    log = (project / f".dvc/tmp/reproduce/logs/draw@{lost}.log").read_text()
    if nodes.folders[0] == nodes.folders[1]:
        assert not log.endswith("from step 0\n")
    else:
        assert [Path(path).is_relative_to(nodes.folders[1]) for path in attempts[lost]] == [True, False]
        assert log.endswith("from step 0\n"), "its checkpoint died with its node"
    assert (project / "total.txt").read_text() == "10\n"
    assert dvc(project, "status").strip() == "Data and pipelines are up to date."


def test_ctrl_c_leaves_nothing_running_and_the_same_call_goes_on(
    tmp_path: Path, nodes: Nodes, start: Reproduce
) -> None:
    project = make_project(tmp_path / "project", tmp_path / "remote")
    process = start(project, "--address", nodes.cluster.address, seconds=30)
    for key in "ab":
        wait_for(tmp_path / "told" / key)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, text
    assert not [one for one in psutil.process_iter(["cmdline"]) if "draw.py" in (one.info["cmdline"] or [])]
    text = ended(start(project, "--address", nodes.cluster.address, seconds=2))
    assert ends(text) == Counter(ran=5), text
    assert dvc(project, "status").strip() == "Data and pipelines are up to date."


def test_a_fresh_clone_takes_everything_from_the_remote(tmp_path: Path, nodes: Nodes, start: Reproduce) -> None:
    project = make_project(tmp_path / "project", tmp_path / "remote")
    told = {"TLC_TEST_FOLDER": str(tmp_path), "TLC_TEST_SECONDS": "0"}
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=project, check=True, env=os.environ | told)
    dvc(project, "push", "-q")
    subprocess.run(["git", "add", "-A"], cwd=project, check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *author, "commit", "-q", "-m", "everything"], cwd=project, check=True)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(project), str(clone)], check=True)
    text = ended(start(clone, "draw", "--address", nodes.cluster.address))
    assert len(re.findall("unchanged  draw@", text)) == 4, text
    assert (clone / "made/c/numbers.txt").read_text() == "3 7\n"
    assert dvc(clone, "status").strip() == "Data and pipelines are up to date."


def test_what_keeps_a_cluster_from_working_is_one_line(tmp_path: Path, nodes: Nodes, start: Reproduce) -> None:
    project = make_project(tmp_path / "project", tmp_path / "remote")
    address = nodes.cluster.address

    def refusal() -> str:
        process = start(project, "--address", address)
        text, _ = process.communicate(timeout=200)
        assert process.returncode == 1, text
        return text.splitlines()[-1]

    dvc(project, "remote", "modify", "shared", "url", "../../remote")
    assert "relative path" in refusal()
    dvc(project, "remote", "remove", "shared")
    assert "dvc remote add --default" in refusal()
    dvc(project, "remote", "add", "--local", "-d", "own", str(tmp_path / "remote"))
    assert re.match(r"error: .*node .*: no default DVC remote", refusal()), "config.local stays with the coordinator"
    address = "127.0.0.1:1"
    assert "no Ray cluster answers there" in refusal()
