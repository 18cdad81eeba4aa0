"""Atomic writes: whole or absent, whatever stops them."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.errors import StudyError
from pipeline.files import atomic_path, read_json, remove_leftovers, remove_whole, write_json


def _fail(path: Path, error: BaseException) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise error


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(type(error)):
        _fail(path, error)
    assert path.read_text(encoding="utf-8") == "before"
    assert _left(tmp_path) == ["file"]


def test_a_directory_replaces_a_full_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for text in ("one", "two"):
        with atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / "file").write_text(text, encoding="utf-8")
    assert (path / "file").read_text(encoding="utf-8") == "two"
    assert _left(tmp_path) == ["out"]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".out.0123abcd.tmp", ".out.0123abcd.old", ".out.b.0123abcd.tmp", ".out.tmp", "out.0123abcd.tmp"):
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path, "out")
    assert _left(tmp_path) == [".out.b.0123abcd.tmp", ".out.tmp", "out.0123abcd.tmp"]
    remove_leftovers(tmp_path)
    assert _left(tmp_path) == [".out.tmp", "out.0123abcd.tmp"]
    remove_leftovers(tmp_path / "nowhere")


def test_a_directory_is_gone_from_its_place_before_anything_in_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "work"
    path.mkdir()
    (path / "file").write_text("whole", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *arguments, **options: None)  # as if killed there
        remove_whole(path)
    assert not path.exists()
    remove_whole(path)
    assert _left(tmp_path) == []


def test_a_full_disk_is_one_clear_line_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(StudyError, match="file: the disk is full"):
        _fail(path, OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(StudyError, match="file: the disk is full"):
        _fail(path, RuntimeError("PytorchStreamWriter failed writing file"))  # as torch.save says it
    assert path.read_text(encoding="utf-8") == "before"
    assert _left(tmp_path) == ["file"]


def test_json_is_the_same_bytes_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": [1.5, None]})
    before = path.read_bytes()
    write_json(path, {"a": [1.5, None], "b": 1})
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": [1.5, None], "b": 1}
    path.write_text("{", encoding="utf-8")
    with pytest.raises(StudyError, match=r"a\.json: not valid JSON"):
        read_json(path)
