"""A node's folders: the project's files and nothing stale, a stage's own files kept until it is done; the same packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import StudyError
from pipeline.orchestration import locks
from pipeline.orchestration.folders import VARIABLE, project_identity, stage_folder
from pipeline.orchestration.packages import check_packages, versions
from pipeline.orchestration.records import STATE_FOLDER, Resources, StageTask

TASK = StageTask(name="train@a", path="dvc.yaml", definition={}, lock_entry=None, resources=Resources())


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project as Ray unpacks it."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "node"))
    for name, text in {"a.py": "a", "folder/b.py": "b", ".dvc/config": "[core]\n", ".dvc/tmp/lock": ""}.items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_text(text)
    return tmp_path / "source"


def test_a_folder_follows_the_project_and_keeps_what_a_stage_resumes_from(source: Path) -> None:
    root = stage_folder(source, "p", TASK, waits=lambda: False)
    assert (root / "folder/b.py").read_text() == "b"
    assert not (root / ".dvc/tmp/lock").exists()
    before = (root / "a.py").stat().st_mtime_ns
    (root / ".work").mkdir()
    (root / ".work/checkpoint").write_text("step 7")
    (source / "folder/b.py").write_text("other")
    (source / "new.py").write_text("new")
    assert stage_folder(source, "p", TASK, waits=lambda: False) == root
    assert [(root / name).read_text() for name in ("a.py", "folder/b.py", "new.py")] == ["a", "other", "new"]
    assert (root / "a.py").stat().st_mtime_ns == before
    (source / "new.py").unlink()
    stage_folder(source, "p", TASK, waits=lambda: False)
    assert not (root / "new.py").exists()
    assert (root / ".work/checkpoint").read_text() == "step 7"


def test_dvc_works_in_a_folder_with_the_nodes_cache(source: Path) -> None:
    from dvc.repo import Repo

    root = stage_folder(source, "p", TASK, waits=lambda: False)
    with Repo(str(root)) as repo:
        assert Path(repo.cache.local_cache_dir) == source.parent / "node/p/cache"


def test_a_killed_attempt_that_still_saves_is_waited_for(source: Path) -> None:
    root = stage_folder(source, "p", TASK, waits=lambda: False)
    (source / "a.py").write_text("changed")
    with locks.exclusive(root / STATE_FOLDER / "stages" / "train@a.lock"), pytest.raises(locks.Busy):
        stage_folder(source, "p", TASK, waits=lambda: False)
    assert (root / "a.py").read_text() == "a"


def test_a_project_keeps_its_name_and_a_copy_elsewhere_has_another(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    first = project_identity(str(tmp_path / "one"))
    assert first.startswith("one-")
    assert project_identity(str(tmp_path / "one")) == first
    assert project_identity(str(tmp_path / "other")) != first


def test_other_packages_are_refused_in_one_line() -> None:
    here = versions()
    check_packages(here, where="node: ")
    assert {"python", "dvc", "ray", "torch"} <= here.keys()
    assert "+" not in "".join(here.values())
    with pytest.raises(
        StudyError, match=r"^node: it has python .* instead of 2\.7, torch .* instead of 0\.1; install"
    ) as raised:
        check_packages(here | {"python": "2.7", "torch": "0.1"}, where="node: ")
    assert "\n" not in str(raised.value)
    with pytest.raises(StudyError, match=r"nothing-like-it none instead of 1\.0"):
        check_packages({"nothing-like-it": "1.0"}, where="")
