"""What RUN names: rows of the committed study, found, missing or misspelt; and directories."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.compression.formats import size_bytes
from pipeline.deployment.export import export
from pipeline.deployment.sources import Source, find_source
from pipeline.errors import StudyError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the committed studies and no artifacts."""
    for name in ("params.yaml", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("default-w64x2-s0-seconds-q5", "seconds-q5' in study 'default'; did you mean 'default-w64x2-s0-seconds-q"),
        ("defualt-w64x2-s0-seconds-q4", "no study 'defualt' in params.yaml; did you mean 'default'"),
        ("default-w64x2-s0-q4", "neither a model directory nor a run_id; did you mean 'default-w64x2-s0-"),
        ("models/ende", "models/ende: no such directory"),
        ("default-w64x2-s0-seconds-q4", "dvc pull quantize@default-w64x2-s0-posttraining"),
        ("default-w64x2-s0-seconds-p50q4", "tlc reproduce prune@default-w64x2-s0-magnitude"),
        ("default-w64x2-s0-seconds-fp32", "dvc repro pretrain@default-w64x2-s0"),
        ("default-w64x1-both-s0-seconds-fp32", "dvc repro distill@default-w64x1-both-s0"),
        ("params.yaml", "params.yaml: a file"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_mending(run: str, says: str, project: Path) -> None:
    with pytest.raises(StudyError) as caught:
        find_source(run)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_stages_named_are_those_of_the_graph(project: Path) -> None:
    import yaml

    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    params = yaml.load(
        (ROOT / "params.yaml").read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    for run in ("default-w64x2-s0-seconds-q4", "default-w64x4-s0-seconds-depth50", "default-w64x1-both-s0-seconds-q4"):
        with pytest.raises(StudyError) as caught:
            find_source(run)
        stage, key = str(caught.value).rpartition("dvc pull ")[2].strip("`").split("@")
        assert stage in graph
        assert key in params[stage]


def test_a_diverged_model_is_named_so(project: Path) -> None:
    folder = Path("artifacts/default/compressed/default-w64x2-s0/posttraining")
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"seconds-q4": {"status": "diverged"}}))
    with pytest.raises(StudyError, match="has status 'diverged', it left no model; export another row"):
        find_source("default-w64x2-s0-seconds-q4")


def test_a_row_is_found_with_its_study(project: Path, four_bits: Source) -> None:
    place = Path("artifacts/default/compressed/default-w64x2-s0/posttraining/seconds-q4")
    place.parent.mkdir(parents=True)
    place.symlink_to(four_bits.directory)
    found = find_source("default-w64x2-s0-seconds-q4")
    assert found.directory == place
    assert found.run_id == "default-w64x2-s0-seconds-q4"
    assert found.search == {"beam": 4, "length_penalty": 1.0, "max_length": 80}
    assert found.corpus is not None
    assert found.corpus["license"] == "CC-BY 2.0 FR"


def _changed(directory: Path, place: Path, **changes: Any) -> Path:
    """Copy a model directory with another run.json."""
    shutil.copytree(directory, place)
    path = place / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return place


def test_a_row_s_numbers_are_its_own_artifact_s_alone(project: Path, four_bits: Source) -> None:
    """The same command with --set and --out writes a model of the same name and size; so does a copy of any kind."""
    name = {"run_id": "default-w64x2-s0-seconds-q4", "study": "default"}
    place = Path("artifacts/default/compressed/default-w64x2-s0/posttraining/seconds-q4")
    own = _changed(four_bits.directory, place, **name, entry={"dropout": 0.3})
    other = _changed(four_bits.directory, Path("dropout"), **name, entry={"dropout": 0.1})
    named = find_source("default-w64x2-s0-seconds-q4")
    assert [find_source(str(path)).run_id for path in (own, own.resolve())] == [named.run_id] * 2 == [named.name] * 2
    found = find_source(str(other))
    assert (found.run_id, found.name, found.search) == (None, named.run_id, named.search)

    times = {"latency_threads": 1, "latency_batch": 1, "latency_ms_p50": 2.25, "latency_ms_p95": 3.25}
    row = {**name, "size_bytes": size_bytes(own), "quality": 44.75, "latency_engine": "ctranslate2-int8", **times}
    Path("results").mkdir()
    pd.DataFrame([row]).to_parquet("results/runs.parquet")
    cards = []
    for number, source in enumerate((named, found)):
        written = export(source, f"out{number}", results=Path("results")).directory
        cards.append((written / "README.md").read_text(encoding="utf-8"))
    assert all(number in cards[0] for number in ("44.75", "2.2 ms"))
    assert not any(number in cards[1] for number in ("44.75", "2.2 ms"))
    assert f"not measured (the row of this name was measured on the study's own artifact, {place}, and" in cards[1]


def test_a_run_json_that_is_no_record_is_one_line(project: Path, four_bits: Source) -> None:
    place = _changed(four_bits.directory, project / "odd")
    for content in ("[1]", "{"):
        (place / "run.json").write_text(content)
        with pytest.raises(StudyError, match=r"run\.json: "):
            find_source(str(place))


def test_a_directory_is_itself(project: Path, four_bits: Source) -> None:
    found = find_source(str(four_bits.directory))
    assert (found.directory, found.name, found.search) == (four_bits.directory, four_bits.run_id, None)
    assert (found.run_id, found.unmeasured) == (None, None)
    with pytest.raises(StudyError, match=r"no config\.json"):
        find_source(str(project))
