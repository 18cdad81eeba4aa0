"""The plan's breakdown as it is printed: sums that hold, every size, and padding once there is a corpus."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
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


@pytest.mark.parametrize("name", ["paper_mlm", "wmt14"])
def test_a_study_that_no_machine_here_could_run_is_priced_at_an_assumed_speed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path("configs", f"{name}.yaml").resolve()
    study = load_study(config)
    monkeypatch.chdir(tmp_path)
    main(studies=[str(config)])
    assert "- = not known before calibration" in capsys.readouterr().out
    totals = []
    for gflops in (1e5, 2e5):
        main(studies=[str(config)], gflops=gflops)
        told = capsys.readouterr().out
        assert "not known" not in told
        rows = [line for line in told.splitlines() if line.startswith(f"{name}-")]
        assert len(rows) == sum(size.seeds for size in study.sizes)
        steps = [int(line.split()[4]) for line in rows]
        assert min(steps) > 1000
        totals.append(sum(steps))
    assert totals[1] == pytest.approx(2 * totals[0], rel=1e-3)
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_an_assumed_speed_is_never_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match=r"--gflops assumes a speed, and --write counts on measured ones; give one"):
        main(studies=[str(CONFIG)], gflops=1e5, write=True)
    assert not list(tmp_path.iterdir())


def test_of_encoders_the_breakdown_is_a_token_of_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path("configs/smoke_mlm.yaml").resolve()
    study = load_study(config)
    monkeypatch.chdir(tmp_path)
    main(studies=[str(config)], flops=True)
    told = capsys.readouterr().out
    assert "FLOPs a token, blocks of 32 tokens" in told
    lines = told.split("\n\n", 1)[1].splitlines()
    typical, vocabulary = typical_positions(study), study.corpus.vocab_size
    for size in study.sizes:
        parameters, forward, backward, _ = (_numbers(line) for line in lines if line.startswith(f"{size.key} "))
        assert sum(parameters[:-1]) == parameters[-1] == parameters_total(size, vocab_size=vocabulary)
        step = train_flops(size, typical, vocab_size=vocabulary) / typical.source
        assert forward[-1] + backward[-1] == pytest.approx(step, abs=1)
