"""The three lines of a model card, run as a stranger runs them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.deployment.export import export
from pipeline.deployment.sources import Source
from pipeline.deployment.translation_export import SENTENCE
from pipeline.evaluation.decoding import translate
from pipeline.evaluation.translation import plain
from tests.deployment.conftest import SEARCH

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = """\
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'transformers', 'pipeline', 'optimum', 'onnxruntime'):
            raise ImportError(f'{name} is not in a clean environment')
sys.meta_path.insert(0, Blocked())
"""


def _code(directory: Path) -> str:
    found = re.search(r"```python\n(.*?)\n```", (directory / "README.md").read_text(encoding="utf-8"), re.S)
    assert found is not None
    return found[1]


def _program(code: str, sentences: list[str]) -> str:
    """Return a program of the snippet that runs its last line for every sentence in place of the card's own."""
    *first, last = code.splitlines()
    assert len(first) == 2
    calls = [last.replace(json.dumps(SENTENCE), json.dumps(sentence)) for sentence in sentences]
    assert len(set(calls)) == len(set(sentences))
    return "\n".join([*first, *calls])


def _run(python: str, program: str, directory: Path) -> list[str]:
    answer = subprocess.run([python, "-I", "-c", program], cwd=directory, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return [line.strip() for line in answer.stdout.splitlines()]


@pytest.mark.parametrize("form", ["ctranslate2-int8", "ctranslate2-float32"])
def test_ctranslate2_s_snippet_needs_ctranslate2_and_tokenizers_alone(
    form: str, four_bits: Source, corpus: PreparedCorpus, lines: list[str], tmp_path: Path
) -> None:
    export(four_bits, tmp_path / "out", form=form)
    sentences = [line for line in lines if line] + ["My mother saw the house. " * 60]
    found = _run(sys.executable, BLOCKED + _program(_code(tmp_path / "out"), sentences), tmp_path / "out")
    expected = translate(plain(four_bits.directory), corpus.tokenizer(), sentences, engine=form, **SEARCH)
    assert found == expected


@pytest.mark.parametrize(
    ("form", "engine"),
    [
        ("packed", "ctranslate2-int8"),
        pytest.param("transformers", "transformers", marks=pytest.mark.slow),
        pytest.param("onnxruntime-float32", "onnxruntime-float32", marks=pytest.mark.slow),
    ],
)
def test_the_other_snippets(
    form: str, engine: str, four_bits: Source, corpus: PreparedCorpus, lines: list[str], tmp_path: Path
) -> None:
    export(four_bits, tmp_path / "out", form=form)
    program = _program(_code(tmp_path / "out"), lines[:6])
    if form == "packed":
        program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"
    expected = translate(plain(four_bits.directory), corpus.tokenizer(), lines[:6], engine=engine, **SEARCH)
    assert _run(sys.executable, program, tmp_path / "out") == expected


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_snippet_runs_in_a_fresh_environment(
    four_bits: Source, corpus: PreparedCorpus, lines: list[str], tmp_path: Path
) -> None:
    export(four_bits, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    packages = re.findall(r"`pip install ([^`]+)`", card)[0].split()
    assert packages == ["ctranslate2", "tokenizers"]
    locked = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "clean"], check=True)
    python = str(tmp_path / "clean" / "bin" / "python")
    pinned = [f"{name}=={locked[name]}" for name in packages]
    installed = subprocess.run([python, "-m", "pip", "install", "--quiet", *pinned], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"no package index here: {installed.stderr.strip().splitlines()[-1:]}")
    sentences = [line for line in lines if line]
    found = _run(python, _program(_code(tmp_path / "out"), sentences), tmp_path / "out")
    expected = translate(plain(four_bits.directory), corpus.tokenizer(), sentences, engine="ctranslate2-int8", **SEARCH)
    assert found == expected
