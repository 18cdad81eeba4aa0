"""The prepare command: one summary line, one line for a fault, nothing half-written, help at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.corpora.prepared import PreparedCorpus

ROOT = Path(__file__).parents[2]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stages.prepare", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with one study over a TSV of 600 pairs, and its params.yaml."""
    study = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text(encoding="utf-8"))
    study["name"] = "mini"
    study["corpus"] = {
        "kind": "tsv",
        "path": "pairs.tsv",
        "source_column": "en",
        "target_column": "fr",
        "source_lang": "en",
        "target_lang": "fr",
        "license": "CC0",
        "credit": "nobody",
        "valid_sentences": 40,
        "test_sentences": 60,
        "vocab_size": 280,
    }
    rows = [f"Room {i} has {i % 7} windows.\tLa pièce {i} a {i % 7} fenêtres.\n" for i in range(600)]
    (tmp_path / "pairs.tsv").write_text("en\tfr\n" + "".join(rows), encoding="utf-8")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mini.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    program = (
        "from pathlib import Path; from pipeline.params import combined, write_params; "
        "write_params(combined([Path('configs/mini.yaml')]))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    return tmp_path


def test_prepare_and_again_with_other_settings(project: Path) -> None:
    done = run(project, "--study", "mini")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "artifacts/mini/corpus: train 500, valid 40, test 60 from 600 of 600 pairs, vocabulary 280"
    ]
    assert PreparedCorpus.open(project / "artifacts" / "mini" / "corpus").vocab_size == 280
    done = run(project, "--study", "mini", "--set", "max_pairs=300", "--out", "other")
    assert "train 200, valid 40, test 60 from 600 of 600 pairs" in done.stdout
    done = run(project, "--study", "mini", "--set", "max_pairs=300")
    assert done.returncode == 1
    assert "--out" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--study", "minni"], "did you mean 'mini'"),
        (["--study", "mini", "--set", "vocab=300", "--out", "o"], "did you mean 'vocab_size'"),
        (["--study", "mini", "--set", "on_empty=explode", "--out", "o"], "corpus.on_empty"),
        (["--study", "mini", "--set", "path=pair.tsv", "--out", "o"], "did you mean 'pairs.tsv'"),
        (["--study", "mini", "--set", "target_column=french", "--out", "o"], "no column 'french'"),
        (["--study", "mini", "--set", "vocab_size=50000", "--out", "o"], "set corpus.vocab_size"),
    ],
)
def test_a_fault_is_one_line(project: Path, arguments: list[str], message: str) -> None:
    done = run(project, *arguments)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert not (project / "o").exists()


def test_help_has_an_example(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    assert "Example: python -m stages.prepare" in done.stdout
