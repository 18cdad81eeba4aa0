"""The table of engines on the page, and what engines say of models."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.analysis.engine_comparison import engine_lines, engine_notes, setting_name
from tests.analysis.synthetic import measured, report_entry
from tests.analysis.synthetic_engines import COMPARED, LOST, with_engines

ENTRY = report_entry(
    sizes=["w32x2", "w64x2"],
    recipes=["q8", "q4", "width50"],
    limited={"width50": {"sizes": ["w64x2"]}},
    students=[],
    plain_of_student={},
    seeds=2,
    matches=["seconds"],
)


def lines_of(**changes: Any) -> dict[tuple[str, str], dict[str, Any]]:
    frame, engines = with_engines(measured(ENTRY), **changes)
    return {(line["config_id"], line["engine"]): line for line in engine_lines(frame, engines)}


def test_one_line_a_first_seed_and_engine_with_every_setting() -> None:
    lines = lines_of()
    assert len(lines) == 2 * (len(COMPARED) + 2) + 1
    assert all("-s0-seconds-" in line["run_id"] for line in lines.values())
    assert {len(line["latency"]) for line in lines.values()} == {4}
    assert {name for (name, _), line in lines.items() if line["compared"]} == {"w32x2/fp32", "w64x2/fp32"}
    assert {engine for (name, engine), line in lines.items() if line["deployed"] and name == "w64x2/q4"} == {
        "ctranslate2-int8"
    }


def test_every_line_has_the_quality_of_its_own_engine() -> None:
    lines = lines_of()
    weights = lines["w64x2/fp32", "torch"]["engine_quality"] + LOST["torch"]
    for engine in COMPARED:
        assert lines["w64x2/fp32", engine]["engine_quality"] == pytest.approx(weights - LOST[engine])


def test_speed_is_compared_with_the_same_engine_in_fp32_on_the_same_shape() -> None:
    lines = lines_of()
    for engine in ("ctranslate2-int8", "onnxruntime-int8"):
        assert lines["w64x2/fp32", engine]["speedup"] == {
            place: pytest.approx(1 / 0.6) for place in ((1, 1), (2, 1), (1, 32), (2, 32))
        }
    assert lines["w64x2/q4", "ctranslate2-int8"]["speedup"][1, 1] == pytest.approx(1 / 0.6)
    assert lines["w64x2/fp32", "ctranslate2-float32"]["speedup"] == {}
    assert lines["w64x2/fp32", "torch"]["speedup"] == {}


def test_a_reshaped_model_is_compared_with_what_has_its_shape() -> None:
    def narrow(record: dict[str, Any]) -> dict[str, Any]:
        return record | ({"engine": "ctranslate2-int8"} if record["run_id"].endswith("width50") else {})

    lines = lines_of(change_record=narrow)
    assert lines["w64x2/width50", "ctranslate2-int8"]["speedup"][1, 1] == pytest.approx(1 / 0.6)  # w32x2's, not w64x2's


def test_both_qualities_stand_in_one_line_and_nothing_is_made_up() -> None:
    def refused(record: dict[str, Any]) -> dict[str, Any]:
        if record["engine"] != "onnxruntime-int8":
            return record | {"quality": 30.0}
        return record | {"status": "refused", "note": "no such layer", "quality": None, "size_bytes": None}

    frame, engines = with_engines(measured(ENTRY).assign(quality=31.0), change_record=refused)
    lines = {(line["config_id"], line["engine"]): line for line in engine_lines(frame, engines)}
    ran, not_run = lines["w64x2/fp32", "onnxruntime-float32"], lines["w64x2/fp32", "onnxruntime-int8"]
    assert (ran["quality"], ran["engine_quality"], ran["note"]) == (31.0, 30.0, None)
    assert (not_run["status"], not_run["note"], not_run["latency"], not_run["speedup"]) == (
        "refused",
        "no such layer",
        {},
        {},
    )
    notes = engine_notes(engines)
    assert [(line["status"], line["models"]) for line in notes] == [("refused", 2), ("ok", 4)]
    assert notes[0]["configurations"] == ["w32x2/fp32", "w64x2/fp32"]
    assert notes[1]["note"] == "its 4-bit weights run as int8"


def test_settings_are_written_out() -> None:
    assert [setting_name(place) for place in ((1, 1), (2, 32))] == ["1 thread, batch 1", "2 threads, batch 32"]
