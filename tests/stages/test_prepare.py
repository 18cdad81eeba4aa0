"""The prepare command: one summary line, one line for a fault, nothing half-written, help at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from stages.prepare import main

ROOT = Path(__file__).parents[2]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stages.prepare", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
    )


def write_params_of(folder: Path) -> None:
    program = (
        "from pathlib import Path; from pipeline.params import combined, write_params; "
        "write_params(combined([Path('configs/mini.yaml')]))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True)


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
    write_params_of(tmp_path)
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


ENCODER_CORPUS = {
    "kind": "text",
    "text": {"kind": "files", "paths": ["reviews.txt"], "valid_documents": 5, "test_documents": 6},
    "sentences": {"kind": "csv", "path": "sentences.csv", "classes": 2, "valid_sentences": 20, "test_sentences": 30},
    "license": "CC0",
    "credit": "nobody",
    "vocab_size": 280,
    "sequence_tokens": 16,
    "max_tokens": 16,
}


@pytest.fixture
def encoder_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the test stands in, with 60 documents, 200 labelled sentences, and the settings of their corpus."""
    rows = [f"Room {i} has {i % 7} windows.\n\n" for i in range(60)]
    (tmp_path / "reviews.txt").write_text("".join(rows), encoding="utf-8")
    rows = [f"Seat {i} is {('bad', 'good')[i % 2]}.,{i % 2}\n" for i in range(200)]
    (tmp_path / "sentences.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
    (tmp_path / "corpus.yaml").write_text(yaml.safe_dump(ENCODER_CORPUS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def encoder_project(project: Path, encoder_data: Path) -> Path:
    """The same folder with a study over that corpus."""
    study = yaml.safe_load((project / "configs" / "mini.yaml").read_text(encoding="utf-8"))
    study = {name: study[name] for name in ("name", "budgets", "training")} | {
        "task": "masked_lm",
        "corpus": ENCODER_CORPUS,
        "sizes": [{"d_model": 64, "num_layers": 1, "seeds": 1}],
        "finetune": {"batch_tokens": 256, "learning_rate": {"tuned": {64: 1e-3}}},
        "recipes": {"rtn": {"recipes": {"q8": [{"method": "uniform", "bits": 8}]}}},
    }
    (project / "configs" / "mini.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    write_params_of(project)
    return project


def test_text_and_labelled_sentences(encoder_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(encoder_project, "--study", "mini")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith("artifacts/mini/corpus: blocks train ")
    assert line.endswith(
        " from 60 of 60 documents; sentences train 150, valid 20, test 30 from 200 of 200 rows; vocabulary 280"
    )
    prepared = PreparedCorpus.open_task(encoder_project / "artifacts" / "mini" / "corpus", "masked_lm")
    assert len(prepared.split("train")) == prepared.card["splits"]["train"]["entries"]
    for source in ({"study": "mini"}, {"file": Path("corpus.yaml")}):
        main(**source, settings=["text.max_documents=40", "sentences.test_sentences=50"], out=Path("other"))
        assert "sentences train 130, valid 20, test 50 from 200 of 200 rows" in capsys.readouterr().out
    text = PreparedCorpus.open(encoder_project / "other" / "text").card["splits"]
    assert sum(split["documents"] for split in text.values()) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text.documents=3"], "did you mean 'text."),
        (["text.paths=[review.txt]"], "did you mean 'reviews.txt'"),
        (["sentences.classes=3"], "corpus.sentences.classes is 3"),
        (["sentences.classes=1"], "corpus.sentences.classes: "),
        (["text.kind=package"], "corpus.text: text of kind 'package' also needs package"),
        (["sequence_tokens=4"], "corpus.sequence_tokens"),
    ],
)
def test_a_fault_of_text_or_sentences_is_one_line(encoder_data: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        main(file=Path("corpus.yaml"), settings=arguments, out=Path("o"))
    assert "\n" not in str(caught.value)
    assert not (encoder_data / "o").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"text": {**ENCODER_CORPUS["text"], "pats": []}},
            "corpus.yaml: unknown key 'text.pats'; did you mean 'paths'",
        ),
        ({"text": {"kind": "files", "paths": ["reviews.txt"]}}, "corpus.yaml: text.valid_documents is missing"),
        ({"text": "reviews.txt"}, "corpus.yaml: text is a mapping of settings, not 'reviews.txt'"),
    ],
)
def test_settings_that_are_no_corpus(encoder_data: Path, change: dict[str, object], message: str) -> None:
    (encoder_data / "corpus.yaml").write_text(yaml.safe_dump(ENCODER_CORPUS | change), encoding="utf-8")
    with pytest.raises(StudyError, match=message):
        main(file=Path("corpus.yaml"), out=Path("o"))


def test_help_has_an_example(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    assert "Example: python -m stages.prepare" in done.stdout
