"""Progress bars: on a terminal, in a log where that is wished, and nowhere else."""

from __future__ import annotations

import pytest

import pipeline.progress as module
from pipeline.progress import progress


@pytest.mark.parametrize(("wished", "rank", "shown"), [("1", "0", True), ("1", "1", False), ("", "0", False)])
def test_a_log_gets_a_bar_when_it_is_wished(
    wished: str, rank: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TLC_PROGRESS", wished)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(module, "LOG_SECONDS", 0.0)
    assert list(progress(range(3), desc="steps")) == [0, 1, 2]
    assert ("steps: " in capsys.readouterr().err) == shown


def test_a_short_bar_is_not_worth_a_line_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TLC_PROGRESS", "1")
    assert list(progress(range(3), desc="steps")) == [0, 1, 2]
    assert "steps" not in capsys.readouterr().err
