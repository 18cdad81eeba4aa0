"""dvc.lock written in one step is what DVC writes, stage by stage."""

from __future__ import annotations

from pathlib import Path

import pytest
from dvc.utils.serialize import dumps_yaml, loads_yaml

from pipeline.orchestration.lockfile import LockWriter, merged

ROOT = Path(__file__).resolve().parents[2]


def entry(number: int, command: str = "train --long " * 12) -> dict[str, object]:
    return {
        "cmd": command,
        "params": {"params.yaml": {"rate": 1e-05 * number}},
        "outs": [{"path": "m", "size": number}],
    }


def by_dvc(entries: dict[str, dict[str, object]]) -> str:
    text: str = dumps_yaml({"schema": "2.0", "stages": entries})
    return text


def test_the_project_s_own_lock_is_kept_byte_for_byte() -> None:
    text = (ROOT / "dvc.lock").read_text(encoding="utf-8")
    stages = loads_yaml(text)["stages"]
    names = list(stages)
    assert merged(text, {name: stages[name] for name in names[3:6]}, names, names) == text
    assert merged("", {name: stages[name] for name in reversed(names)}, names, ()) == text


def test_new_entries_follow_in_dvc_s_order_and_old_ones_keep_their_place(tmp_path: Path) -> None:
    path = tmp_path / "dvc.lock"
    path.write_text(by_dvc({"old": entry(1), "b": entry(2), "gone": entry(3)}))
    writer = LockWriter(path, ["a", "b", "c", "d"])
    writer.write({"d": entry(4)})
    writer.write({"b": entry(5)})
    writer.write({"c": entry(6), "a": entry(7)})
    expected = {"old": 1, "b": 5, "gone": 3, "a": 7, "c": 6, "d": 4}
    assert path.read_text() == by_dvc({name: entry(number) for name, number in expected.items()})


@pytest.mark.parametrize("command", ["a: b", "two\nlines\n", "multi\n\nblank", "&anchor", "'quoted'", ""])
def test_odd_commands(command: str) -> None:
    before = by_dvc({"one": entry(1)})
    assert merged(before, {"two": entry(2, command)}, ["one", "two"], ["one"]) == by_dvc(
        {"one": entry(1), "two": entry(2, command)}
    )
    again = by_dvc({"two": entry(2, command)})
    assert merged(again, {"one": entry(1)}, ["two", "one"], ["two"]) == by_dvc(
        {"two": entry(2, command), "one": entry(1)}
    )


def test_a_lock_laid_out_otherwise_is_left_to_dvc() -> None:
    text = "# by hand\nschema: '2.0'\nstages:\n  one:\n    cmd: x  # why\n"
    result = merged(text, {"two": {"cmd": "y"}}, ["one", "two"], ["one"])
    assert result == text + "  two:\n    cmd: y\n"
