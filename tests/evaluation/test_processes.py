"""Work spread over processes: all of it done, the first fault raised, and Ctrl-C left to the parent."""

from __future__ import annotations

import os
import signal

import pytest

from pipeline.errors import StudyError
from pipeline.evaluation.processes import on_every_core


def _square(number: int) -> tuple[int, int, bool]:
    return number * number, os.getpid(), signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def _fails_at_three(number: int) -> int:
    if number == 3:
        raise StudyError("three")
    return number


def test_every_item_comes_back_with_its_own_result() -> None:
    done = dict(on_every_core(_square, range(5), desc="square"))
    assert {item: result[0] for item, result in done.items()} == {0: 0, 1: 1, 2: 4, 3: 9, 4: 16}
    assert os.getpid() not in {result[1] for result in done.values()}
    assert all(result[2] for result in done.values())


def test_a_fault_ends_the_rest() -> None:
    with pytest.raises(StudyError, match="three"):
        list(on_every_core(_fails_at_three, [3, 4, 5], desc="fail"))
