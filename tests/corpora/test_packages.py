"""A package's file is fetched from pip's index once, checked every time, and read without importing it."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.corpora.package_index import pip_settings
from pipeline.corpora.packages import cache_directory, fetch_package, read_member
from pipeline.errors import StudyError

FILE = "demo-1.0.tar.gz"
TEXT = b"Go.\tVa !\nRun!\tCours !\n"


def archive_bytes() -> bytes:
    inner, outer = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w") as written:
        written.writestr("pairs.txt", TEXT)
    with tarfile.open(fileobj=outer, mode="w:gz") as tar:
        for name, data in (("demo-1.0/data/pairs.zip", inner.getvalue()), ("demo-1.0/plain.txt", TEXT)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return outer.getvalue()


def make_index(root: Path, data: bytes, file: str = FILE) -> str:
    folder = root / "index" / "demo"
    folder.mkdir(parents=True)
    (folder / file).write_bytes(data)
    (folder / "index.html").write_text(f'<!DOCTYPE html><html><body><a href="{file}">{file}</a></body></html>')
    return (root / "index").as_uri()


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pip configuration but the test's own, a cache of its own, no waiting."""
    for name in os.environ:
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("TLC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_fetched_once_from_the_mirror_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = archive_bytes()
    monkeypatch.setenv("PIP_INDEX_URL", make_index(tmp_path, data))
    path = fetch_package("demo==1.0", FILE, sha256(data))
    assert path == tmp_path / "cache" / FILE
    assert path.read_bytes() == data
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "nowhere").as_uri())
    assert fetch_package("demo==1.0", FILE, sha256(data).upper()) == path
    assert [entry.name for entry in cache_directory().iterdir()] == [FILE]


@pytest.mark.parametrize("option", ["index-url", "extra-index-url", "find-links"])
def test_fetched_through_pips_configuration_file(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = archive_bytes()
    index = make_index(tmp_path, data)
    place = str(tmp_path / "index" / "demo") if option == "find-links" else index
    lines = ["[global]", f"{option} = {place}"]
    if option != "index-url":
        lines.append("no-index = true" if option == "find-links" else f"index-url = {(tmp_path / 'empty').as_uri()}")
    (tmp_path / "pip.conf").write_text("\n".join(lines))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert fetch_package("demo==1.0", FILE, sha256(data)).read_bytes() == data


def test_environment_wins_over_the_configuration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = (tmp_path / "one").as_uri()
    (tmp_path / "pip.conf").write_text(
        "\n".join(["[global]", f"index-url = {one}", "cert = /c.pem", "[download]", "timeout = 7"])
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_INDEX_URL", "file:///two")
    assert pip_settings() == {"index-url": "file:///two", "cert": "/c.pem", "timeout": "7"}


def test_a_wheel_is_fetched_though_it_fits_another_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        wheel.writestr("demo/pairs.txt", TEXT)
    file = "demo-1.0-cp27-cp27m-win32.whl"
    monkeypatch.setenv("PIP_INDEX_URL", make_index(tmp_path, buffer.getvalue(), file))
    path = fetch_package("demo==1.0", file, sha256(buffer.getvalue()))
    assert read_member(path, archive_member=None, inner_member="demo/pairs.txt") == TEXT


def test_wrong_hash_of_a_download_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", make_index(tmp_path, archive_bytes()))
    with pytest.raises(StudyError, match=r"demo-1\.0\.tar\.gz has SHA-256 .* expected 00.*nothing was kept"):
        fetch_package("demo==1.0", FILE, "00" * 32)
    assert not list(cache_directory().iterdir())


def test_wrong_hash_in_the_cache(tmp_path: Path) -> None:
    cache_directory().mkdir()
    (cache_directory() / FILE).write_bytes(archive_bytes()[:-10])
    with pytest.raises(StudyError, match=r"SHA-256 is .* expected .*delete the file"):
        fetch_package("demo==1.0", FILE, sha256(archive_bytes()))


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    with pytest.raises(StudyError, match=r"demo==1\.0: .*connected machine.*pip.*copy demo") as caught:
        fetch_package("demo==1.0", FILE, "00" * 32)
    message = str(caught.value)
    assert "127.0.0.1" not in message, "no index is named"
    assert str(cache_directory() / FILE) in message
    assert "\n" not in message
    assert "".join(capfd.readouterr()) == ""


def test_a_release_without_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", make_index(tmp_path, archive_bytes(), "demo-2.0.tar.gz"))
    with pytest.raises(StudyError, match="no such file in that release"):
        fetch_package("demo==1.0", FILE, "00" * 32)


def test_members(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(archive_bytes())
    inner = "demo-1.0/data/pairs.zip"
    assert read_member(path, archive_member=inner, inner_member="pairs.txt") == TEXT
    assert read_member(path, archive_member=None, inner_member="demo-1.0/plain.txt") == TEXT
    with pytest.raises(StudyError, match=r"no member 'pair\.txt'; did you mean 'pairs\.txt'"):
        read_member(path, archive_member=inner, inner_member="pair.txt")
    with pytest.raises(StudyError, match=r"no member .*did you mean 'demo-1\.0/plain\.txt'"):
        read_member(path, archive_member=None, inner_member="demo-1.0/plan.txt")


@pytest.mark.parametrize("keep", [0, 0.02, 0.3, 0.6])
def test_truncated_archive(tmp_path: Path, keep: float) -> None:
    path = tmp_path / FILE
    data = archive_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(StudyError, match=r"demo.*truncated or damaged.*fetch it again"):
        read_member(path, archive_member="demo-1.0/data/pairs.zip", inner_member="pairs.txt")


def test_damaged_archive_inside(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(archive_bytes())
    with pytest.raises(StudyError, match=r"plain\.txt: the archive is truncated or damaged"):
        read_member(path, archive_member="demo-1.0/plain.txt", inner_member="pairs.txt")
