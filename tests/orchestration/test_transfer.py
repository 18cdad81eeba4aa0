"""A stage's files through a remote: a coordinator's folder, a folder with the source files alone, and nothing in common but that."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from pipeline.errors import StudyError
from pipeline.orchestration.remotes import check_remote
from pipeline.orchestration.transfer import (
    fetch_inputs,
    fill,
    ignore_outputs,
    push_known,
    push_outputs,
    receive_outputs,
)
from pipeline.orchestration.unchanged import is_unchanged

DATA = "a,b\n1,2\n"
STAGES: dict[str, Any] = {
    "make": {
        "cmd": "mkdir -p made/deep && cat script.txt data.csv > made/one.txt && echo {x} > made/deep/two.txt",
        "params": ["x"],
        "deps": ["script.txt", "data.csv"],
        "outs": ["made"],
    },
    "half": {"cmd": "mkdir -p all && echo half > all/half.txt", "deps": ["script.txt"], "outs": ["all/half.txt"]},
    "other": {"cmd": "mkdir -p all/more && cp made/one.txt all/more/", "deps": ["made"], "outs": ["all/more"]},
    "gather": {
        "cmd": "cat all/half.txt all/more/one.txt made/deep/two.txt > sum.txt && mkdir -p plain && cp sum.txt plain/a.txt && "
        "echo '{{\"n\": 1}}' > metrics.json",
        "deps": ["all", "made/deep"],
        "outs": ["sum.txt", {"plain": {"cache": False}}],
        "metrics": [{"metrics.json": {"cache": False}}],
    },
}
CONFIG = """\
[core]
    remote = shared
    analytics = false
['remote "shared"']
    url = {remote}
"""
UPSTREAM = {
    "half": [],
    "make": ["data.csv.dvc"],
    "other": ["make"],
    "gather": ["half", "other", "make"],
}


def write_graph(folder: Path, x: str = "1", stages: dict[str, Any] = STAGES) -> None:
    named = {name: stage | {"cmd": stage["cmd"].format(x="$(grep x params.yaml)")} for name, stage in stages.items()}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": named}))
    (folder / "params.yaml").write_text(f"x: {x}\n")


def make_project(place: Path) -> Path:
    root, remote = place / "project", place / "remote"
    root.mkdir()
    remote.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    Repo.init(str(root))
    (root / "data.csv").write_text(DATA)
    (root / "script.txt").write_text("script\n")
    write_graph(root)
    (root / ".dvc/config").write_text(CONFIG.format(remote=remote))
    with Repo(str(root)) as repo:
        repo.add(str(root / "data.csv"))
        repo.push()
    return root


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A graph that was run once for all tests, which take copies."""
    place = tmp_path_factory.mktemp("template")
    root = make_project(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return place, run_everything(root)


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return tmp_path / "remote"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The coordinator's folder, under git, with data that DVC tracks and pushed, and nothing run."""
    root = make_project(tmp_path)
    monkeypatch.chdir(root)
    return root


def node_folder(project: Path, name: str = "node") -> Path:
    """A folder beside `project` with its source files alone: no git, no cache, no lock, nothing that was run."""
    names = ["dvc.yaml", "params.yaml", "script.txt", "data.csv.dvc", ".dvcignore", ".dvc/config"]
    root = project.parent / name
    names += ["all/.gitignore"] if (project / "all/.gitignore").exists() else []
    for path in names:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project / path, root / path)
    return root


def open_node(root: Path) -> Repo:
    return Repo(str(root), config={"core": {"no_scm": True}})


def load_stage(repo: Repo, name: str, entry: dict[str, Any] | None) -> Any:
    """Return a stage of dvc.yaml with the hashes of `entry`, or what a ``.dvc`` file stands for."""
    if name.endswith(".dvc"):
        return repo.stage.load_one(str(Path(repo.root_dir, name)))
    stage = repo.stage.load_one(str(Path(repo.root_dir, "dvc.yaml")), name)
    fill(stage, entry)
    return stage


def above(repo: Repo, name: str, entries: dict[str, Any]) -> list[Any]:
    """Return what a stage depends on."""
    return [load_stage(repo, need, entries.get(need)) for need in UPSTREAM[name]]


def run_on_node(root: Path, name: str, entries: dict[str, Any]) -> dict[str, Any]:
    """Do to one stage, in a node's folder, what a worker does; return its entry."""
    from dvc.stage.serialize import to_single_stage_lockfile

    with open_node(root) as repo:
        stage = load_stage(repo, name, None)
        fetch_inputs(repo, stage, above(repo, name, entries))
        for dep in stage.deps:
            dep.save()
        subprocess.run(stage.cmd, shell=True, cwd=root, check=True)
        with repo.lock:
            stage.save(run_cache=False)
            stage.commit()
        push_outputs(repo, stage)
        entry = to_single_stage_lockfile(stage)
        shutil.rmtree(root)
        return entry


def run_everything(project: Path) -> dict[str, Any]:
    """Run the graph, every stage in a new folder of its own; the coordinator receives and writes dvc.lock."""
    entries: dict[str, Any] = {}
    with Repo(str(project)) as repo:
        ignore_outputs(repo, [load_stage(repo, name, None) for name in UPSTREAM])
    for name in UPSTREAM:
        entries[name] = run_on_node(node_folder(project, f"node-{name}"), name, entries)
        with Repo(str(project)) as repo, repo.lock:
            stage = load_stage(repo, name, None)
            receive_outputs(repo, stage, entries[name])
            stage.dump(update_pipeline=False)
    return entries


@pytest.fixture
def finished(
    template: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, dict[str, Any]]:
    """The coordinator's folder after everything ran, and the entries."""
    place, entries = template
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    root = tmp_path / "project"
    (root / ".dvc/config").write_text(CONFIG.format(remote=tmp_path / "remote"))
    monkeypatch.chdir(root)
    return root, dict(entries)


def reproduce(root: Path) -> str:
    """Run the graph as DVC does, one stage at a time, and return what that printed."""
    command = [sys.executable, "-m", "dvc", "repro"]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def snapshot(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not {".git", "cache", "tmp"} & set(path.relative_to(root).parts)
    }


def test_a_graph_run_in_folders_that_share_nothing_is_a_sequential_run(project: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(project, alone)
    reproduce(alone)
    run_everything(project)
    assert snapshot(project) == snapshot(alone)
    with Repo(str(project)) as repo:
        assert repo.status() == {}
    assert "Running stage" not in reproduce(project)
    runs = [sorted(path.name for path in (root / ".dvc/cache/runs").rglob("*")) for root in (project, alone)]
    assert runs[0] == runs[1]
    assert runs[0]
    assert (project / "plain/a.txt").stat().st_mode & 0o200, "a plain output is a file that may be changed"


def test_inputs_that_exist_are_not_fetched_again_and_stale_ones_are_replaced(
    finished: tuple[Path, dict[str, Any]], remote: Path
) -> None:
    project, entries = finished
    node = node_folder(project)
    (node / "made/deep").mkdir(parents=True)
    (node / "made/deep/two.txt").write_text("stale")
    (node / "made/left.txt").write_text("from another run")
    with open_node(node) as repo:
        stage = load_stage(repo, "other", None)
        fetch_inputs(repo, stage, above(repo, "other", entries))
        shutil.rmtree(remote)
        fetch_inputs(repo, stage, above(repo, "other", entries))
    assert sorted(path.name for path in (node / "made").rglob("*.txt")) == ["one.txt", "two.txt"]
    assert (node / "made/one.txt").read_text() == "script\n" + DATA
    assert not (node / "all/half.txt").exists()


def test_many_may_fetch_the_same_output_at_once(finished: tuple[Path, dict[str, Any]]) -> None:
    project, entries = finished
    node = node_folder(project)
    failures: list[BaseException] = []

    def fetch() -> None:
        try:
            with open_node(node) as repo:
                fetch_inputs(repo, load_stage(repo, "other", None), above(repo, "other", entries))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert (node / "made/one.txt").read_text() == "script\n" + DATA


def test_an_unchanged_stage_is_known_by_its_entry_and_nothing_is_fetched(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    project, entries = finished
    node = node_folder(project)
    with open_node(node) as repo:
        for name in UPSTREAM:
            assert is_unchanged(repo, load_stage(repo, name, entries[name]), above(repo, name, entries)), name
            assert not is_unchanged(repo, load_stage(repo, name, None), above(repo, name, entries)), name
    assert not [path for path in ("made", "all/half.txt", "sum.txt", "data.csv") if (node / path).exists()]


@pytest.mark.parametrize("change", ["command", "parameter", "source", "data", "upstream", "part", "folder", "remote"])
def test_whatever_changes_a_stage_is_seen(finished: tuple[Path, dict[str, Any]], remote: Path, change: str) -> None:
    project, entries = finished
    node = node_folder(project)
    name = {"upstream": "other", "part": "gather", "folder": "gather"}.get(change, "make")
    if change == "command":
        write_graph(node, stages=STAGES | {"make": STAGES["make"] | {"cmd": "true"}})
    elif change == "parameter":
        write_graph(node, x="2")
    elif change == "source":
        (node / "script.txt").write_text("other\n")
    elif change == "data":
        described = yaml.safe_load((node / "data.csv.dvc").read_text())
        described["outs"][0]["md5"] = "0" * 32
        (node / "data.csv.dvc").write_text(yaml.safe_dump(described))
    elif change in {"upstream", "part"}:
        write_graph(project, x="2")
        again = node_folder(project, "again")
        entries["make"] = run_on_node(again, "make", {})
    elif change == "folder":
        (project / "script.txt").write_text("other\n")
        again = node_folder(project, "again")
        made = run_on_node(again, "make", {})
        entries["other"] = run_on_node(node_folder(project, "again"), "other", {"make": made})
    elif change == "remote":
        shutil.rmtree(remote / "files")
    with open_node(node) as repo:
        stage = load_stage(repo, name, entries[name])
        assert not is_unchanged(repo, stage, above(repo, name, entries))


def test_what_a_sequential_run_left_in_the_cache_reaches_the_workers(project: Path, remote: Path) -> None:
    reproduce(project)
    with Repo(str(project)) as repo:
        push_known(repo, list(repo.index.stages))
        lock = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    node = node_folder(project)
    with open_node(node) as repo:
        stage = load_stage(repo, "gather", lock["gather"])
        needs = above(repo, "gather", lock)
        assert is_unchanged(repo, stage, needs)
        fetch_inputs(repo, stage, needs)
    assert (node / "all/half.txt").read_text() == "half\n"


def test_a_missing_input_is_one_line_with_the_fix(finished: tuple[Path, dict[str, Any]], remote: Path) -> None:
    project, entries = finished
    node = node_folder(project)
    (node / "script.txt").unlink()
    with open_node(node) as repo, pytest.raises(StudyError, match=r"script\.txt.*dvc add") as raised:
        fetch_inputs(repo, load_stage(repo, "half", None), [])
    shutil.rmtree(remote / "files")
    with open_node(node) as repo, pytest.raises(StudyError, match=r"lacks files.*dvc push") as other:
        fetch_inputs(repo, load_stage(repo, "other", None), above(repo, "other", entries))
    assert "\n" not in f"{raised.value}{other.value}"


def configure(root: Path, *lines: str) -> None:
    (root / ".dvc" / "config").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["[core]", "    analytics = false"], "no default DVC remote"),
        (["[core]", "    remote = gone"], "'gone' is not defined"),
        (["[core]", "    remote = r", "['remote \"r\"']", "    url = ../../remote"], "relative path"),
        (["[core]", "    remote = r", "['remote \"r\"']", "    url = /nowhere/at/all"], "no folder there"),
    ],
)
def test_a_remote_that_nodes_cannot_share_is_one_line_with_the_fix(
    project: Path, lines: list[str], message: str
) -> None:
    configure(project, *lines)
    with Repo(str(project)) as repo, pytest.raises(StudyError, match=message) as raised:
        check_remote(repo, where="node 1.2.3.4: ")
    assert str(raised.value).startswith("node 1.2.3.4: ")
    assert "\n" not in str(raised.value)


def test_a_shared_folder_is_a_remote(project: Path) -> None:
    with Repo(str(project)) as repo:
        check_remote(repo)


def test_an_output_that_may_not_be_pushed_is_refused(project: Path) -> None:
    write_graph(project, stages={"half": STAGES["half"] | {"outs": [{"all/half.txt": {"push": False}}]}})
    with pytest.raises(StudyError, match="push: false"):
        run_on_node(node_folder(project), "half", {})
