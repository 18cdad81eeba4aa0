"""The plan's breakdown as it is printed: sums that hold, every size, and padding once there is a corpus."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.flops import parameters_total, train_flops
from pipeline.plan import typical_positions
from pipeline.study import load_study
from stages.plan import main

CONFIG = Path("configs/smoke.yaml").resolve()


def _numbers(line: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r" ([\d,.]+)", line)]


def _breakdown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    main(studies=[str(CONFIG)], flops=True)
    return capsys.readouterr().out.split("\n\n", 1)[1].splitlines()


def test_the_columns_sum_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = _breakdown(capsys)
    study = load_study(CONFIG)
    typical, vocabulary = typical_positions(study), study.corpus.vocab_size
    for size in study.sizes:
        parameters, forward, backward, elementwise = (
            _numbers(line) for line in lines if line.startswith(f"{size.key} ")
        )
        assert sum(parameters[:-1]) == parameters[-1] == parameters_total(size, vocab_size=vocabulary)
        assert sum(forward[:-1]) == forward[-1]
        assert sum(backward[:-1]) == backward[-1]
        step = train_flops(size, typical, vocab_size=vocabulary) / typical.target
        assert forward[-1] + backward[-1] == step
        assert elementwise[-1] == pytest.approx(100 * sum(elementwise[:-1]) / step, abs=0.06)


def test_padding_is_measured_once_the_corpus_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], corpus: PreparedCorpus
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _breakdown(capsys)[-1] == "padding: not known before the corpus is prepared (dvc repro prepare@smoke)"
    (tmp_path / "artifacts" / "smoke").mkdir(parents=True)
    (tmp_path / "artifacts" / "smoke" / "corpus").symlink_to(corpus.path)
    line = _breakdown(capsys)[-1]
    assert re.match(r"padding in 200 training batches, of FLOPs: w16x1 [\d.]+ %, w32x1 [\d.]+ %$", line)
    assert all(0 < float(share) < 100 for share in re.findall(r"([\d.]+) %", line))
