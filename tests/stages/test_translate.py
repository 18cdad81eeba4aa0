"""tlc export and tlc translate as a user types them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.deployment.sources import Source
from pipeline.evaluation.decoding import translate
from pipeline.evaluation.translation import plain
from tests.deployment.conftest import four_bits as four_bits
from tests.deployment.conftest import lines as lines

ROOT = Path(__file__).resolve().parents[2]


def _run(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, input=text, capture_output=True, text=True)


@pytest.fixture(scope="module")
def exported(four_bits: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export by the command, which says what it wrote."""
    out = tmp_path_factory.mktemp("product") / "out"
    answer = _run("stages.export", four_bits.directory, "--to", out)
    assert answer.returncode == 0, answer.stderr
    assert "as CTranslate2 with int8 weights" in answer.stdout
    assert "pip install ctranslate2 tokenizers" in answer.stdout
    assert f'ctranslate2.Translator("{out}")' in answer.stdout
    assert answer.stderr == ""
    return out


def test_lines_are_translated_one_for_one(
    exported: Path, four_bits: Source, corpus: PreparedCorpus, lines: list[str]
) -> None:
    answer = _run("stages.translate", "--model", exported, text="\n".join(lines))
    assert (answer.returncode, answer.stderr) == (0, "")
    expected = translate(plain(four_bits.directory), corpus.tokenizer(), lines, engine="ctranslate2-int8")
    assert answer.stdout.split("\n") == [*expected, ""]
    greedy = _run("stages.translate", "--model", exported, "--beam", "1", "--max-length", "5", text="\n".join(lines))
    search = {"beam": 1, "max_length": 5}
    short = translate(plain(four_bits.directory), corpus.tokenizer(), lines, engine="ctranslate2-int8", **search)
    assert greedy.stdout.split("\n") == [*short, ""]
    assert short != expected


def test_ctranslate2_starts_without_torch(exported: Path) -> None:
    program = (
        "import sys, runpy\n"
        f"sys.argv = ['translate', '--model', {str(exported)!r}]\n"
        "try:\n"
        "    runpy.run_module('stages.translate', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    heavy = ('torch', 'transformers', 'pandas', 'sacrebleu', 'scipy')\n"
        "    print('exit', stop.code, [name for name in heavy if name in sys.modules])\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, input="Tom.\n", capture_output=True, text=True)
    assert answer.stdout.splitlines()[-1] == "exit 0 []"


def test_a_cut_line_is_told_of(exported: Path) -> None:
    answer = _run("stages.translate", "--model", exported, text="My mother saw the house. " * 60 + "\nTom.\n")
    assert answer.returncode == 0
    assert answer.stdout.count("\n") == 2
    assert answer.stderr == "note: 1 of 2 lines had more than the model's 256 tokens and lost their end\n"


def test_a_reader_that_leaves_ends_it_quietly(exported: Path, lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines) * 400
    command = f"{sys.executable} -m stages.translate --model {exported} --window 20 | head -n 2"
    answer = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, input=text, capture_output=True, text=True
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.count("\n") == 2


def test_bad_utf_8_is_one_line_with_its_number(exported: Path) -> None:
    command = [sys.executable, "-m", "stages.translate", "--model", str(exported)]
    answer = subprocess.run(command, cwd=ROOT, input=b"Tom.\n\xff\n", capture_output=True)
    assert answer.returncode == 1
    assert answer.stdout.count(b"\n") == 1
    assert answer.stderr.startswith(b"error: line 2 of the input is not UTF-8")
    assert answer.stderr.count(b"\n") == 1


def test_a_full_disk_is_one_line(exported: Path) -> None:
    command = [sys.executable, "-m", "stages.translate", "--model", str(exported)]
    with Path("/dev/full").open("wb") as full:
        answer = subprocess.run(command, cwd=ROOT, input=b"Tom.\n", stdout=full, stderr=subprocess.PIPE)
    assert answer.returncode == 1
    assert answer.stderr.startswith(b"error: the output cannot be written (No space left on device)")
    assert answer.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["stages.translate"], "give one of --model DIR, --train STUDY and --test STUDY"),
        (["stages.translate", "--model", "nowhere"], "nowhere: no such directory"),
        (["stages.translate", "--model", "tests"], "no model.safetensors, weights.safetensors or quanto.safetensors"),
        (["stages.translate", "--test", "default", "--beam", "1"], "--beam is an option of --model; leave it out with"),
        (["stages.translate", "--train", "default", "--window", "1000"], "--window is an option of --model"),
        (["stages.translate", "--model", "tests", "--out", "x"], "--out is an option of --train and --test"),
        (["stages.export", "default-w64x2-s0-seconds-q4", "--to", "."], ".: the current directory is in it"),
        (["stages.export", "default-w64x2-s0-seconds-q4", "--to", ".."], "..: the current directory is in it"),
        (["stages.export", "default-w64x2-s0-seconds-q4", "--to", "tests"], "tests: not empty"),
        (["stages.export", "default", "--to", "x", "--engine", "ctranslate2-int7"], "did you mean 'ctranslate2-int8'"),
        (["stages.export", "./nowhere", "--to", "x"], "./nowhere: no such directory"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(arguments: list[str], says: str) -> None:
    answer = _run(*arguments)
    assert answer.returncode == 1
    assert says in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert not (ROOT / "x").exists()
