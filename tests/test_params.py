"""params.yaml and dvc.yaml are what the studies say, and a stage notices when they are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.errors import StudyError
from pipeline.graph import graph
from pipeline.params import combined, read_entry, read_params, write_params

FIX = "run `tlc plan --write` and commit what it writes"


def test_the_committed_params_are_up_to_date() -> None:
    params = read_params()
    configs = [Path(record["config"]) for record in params["studies"].values()]
    assert params == combined(configs), FIX
    assert "smoke" not in params["studies"], "smoke runs in a folder of its own"


def test_the_committed_graph_is_up_to_date() -> None:
    assert yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8")) == graph(read_params()), FIX


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with configs/ and the smoke study's params.yaml, as the working directory."""
    shutil.copytree("configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    write_params(combined([Path("configs/smoke.yaml")]))
    return tmp_path


def test_an_entry_is_read_while_the_study_is_unchanged_and_refused_after(project: Path) -> None:
    assert read_entry("pretrain", "smoke-w16x1-s0")["d_model"] == 16
    config = project / "configs" / "smoke.yaml"
    config.write_text(config.read_text(encoding="utf-8") + "\n# a comment changes nothing\n", encoding="utf-8")
    assert read_entry("pretrain", "smoke-w16x1-s0")["d_model"] == 16
    config.write_text(config.read_text(encoding="utf-8").replace("clip_norm: 1.0", "clip_norm: 2.0"), encoding="utf-8")
    with pytest.raises(StudyError, match=r"params\.yaml is older than configs/smoke\.yaml .*run `tlc plan --write`"):
        read_entry("pretrain", "smoke-w16x1-s0")


def test_an_unknown_run_gets_the_nearest_right_name(project: Path) -> None:
    with pytest.raises(StudyError, match=r"no pretrain run 'smoke-w16x1'.*did you mean 'smoke-w16x1-s0'"):
        read_entry("pretrain", "smoke-w16x1")


def test_missing_or_damaged_params_say_how_to_make_them(project: Path) -> None:
    path = project / "params.yaml"
    path.write_text("a: [", encoding="utf-8")
    with pytest.raises(StudyError, match="not valid YAML"):
        read_entry("pretrain", "smoke-w16x1-s0")
    path.unlink()
    with pytest.raises(StudyError, match=r"no such file here; run `tlc plan --write`"):
        read_entry("pretrain", "smoke-w16x1-s0")
