"""The table: one row a model that the study expects, whatever was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.analysis.table import COLUMNS, Row, assemble, read_table, shape_of
from pipeline.errors import StudyError
from pipeline.expected import expected_models
from tests.analysis.synthetic import report_entry, row_of

ENTRY = report_entry(sizes=["w32x2", "w64x2"], seeds=2, recipes=["q8"])


def names() -> list[str]:
    return [model.run_id for model in expected_models(ENTRY)]


def rows() -> list[dict[str, Any]]:
    return [row_of(run_id, 2.0) for run_id in names()]


def test_columns_are_in_the_order_of_the_contract() -> None:
    assert COLUMNS[:8] == ("study", "task", "run_id", "parent_id", "d_model", "num_layers", "num_heads", "ffn_dim")
    assert COLUMNS.index("status") == COLUMNS.index("signature") + 1
    assert list(assemble(ENTRY, rows(), {}, {}).columns) == list(COLUMNS)


def test_one_row_for_every_expected_model() -> None:
    frame = assemble(ENTRY, rows(), {}, {})
    assert list(frame["run_id"]) == names()
    assert (frame["status"] == "ok").all()


def test_a_model_nobody_measured_is_missing_and_null() -> None:
    lost = "toy-w64x2-s1-flops-q8"
    frame = assemble(ENTRY, [row for row in rows() if row["run_id"] != lost], {}, {}).set_index("run_id")
    assert frame.loc[lost, "status"] == "missing"
    assert (frame.loc[lost, "d_model"], frame.loc[lost, "config_id"]) == (64, "w64x2/q8")
    unmeasured = [
        "train_flops",
        "size_bytes",
        "valid_loss",
        "quality",
        "latency_ms_p50",
        "params_total",
        "within_budget",
    ]
    assert frame.loc[lost, unmeasured].isna().all()


def test_a_diverged_model_keeps_its_status() -> None:
    changed = [
        row if row["run_id"] != "toy-w32x2-s0-seconds-q8" else {"run_id": row["run_id"], "status": "diverged"}
        for row in rows()
    ]
    frame = assemble(ENTRY, changed, {}, {})
    assert list(frame.loc[frame["status"] != "ok", "status"]) == ["diverged"]


def test_a_removed_run_leaves_no_row() -> None:
    smaller = ENTRY | {"runs": [key for key in ENTRY["runs"] if "w64x2" not in key], "students": []}
    frame = assemble(smaller, rows(), {}, {})
    assert set(frame["size"]) == {"w32x2"}
    assert len(frame) == 2 * 2 * 2


def test_translations_and_latencies_are_joined_by_run_id() -> None:
    name, other = "toy-w32x2-s0-seconds-fp32", "toy-w32x2-s1-seconds-fp32"
    frame = assemble(
        ENTRY,
        rows(),
        {name: {"quality": 31.5, "signature": "x"}},
        {name: {"latency_ms_p50": 4.0, "latency_threads": 1}},
    ).set_index("run_id")
    assert (frame.loc[name, "quality"], frame.loc[name, "latency_ms_p50"]) == (31.5, 4.0)
    assert frame.loc[other, ["quality", "latency_ms_p50", "latency_threads"]].isna().all()


@pytest.mark.parametrize(
    ("fault", "message"), [({"speling": 1}, "unknown column 'speling'"), ({"status": "fine"}, "unknown status")]
)
def test_strange_measurements_are_refused(fault: dict[str, Any], message: str) -> None:
    changed = rows()
    changed[0] |= fault
    with pytest.raises(StudyError, match=message):
        assemble(ENTRY, changed, {}, {})


def test_overruns_are_marked() -> None:
    changed = rows()
    changed[0]["total_seconds"] = 307.0
    frame = assemble(ENTRY, changed, {}, {})
    assert list(frame["within_budget"][:2]) == [False, True]


def test_types_survive_parquet(tmp_path: Path) -> None:
    frame = assemble(ENTRY, rows()[1:], {}, {})
    frame.to_parquet(tmp_path / "runs.parquet", index=False)
    back = read_table(tmp_path / "runs.parquet")
    assert (str(back["size_bytes"].dtype), str(back["valid_loss"].dtype)) == ("Int64", "float64")
    pd.testing.assert_frame_equal(back, frame, check_dtype=False)


def test_row_needs_names() -> None:
    with pytest.raises(TypeError):
        Row("toy")


def test_shapes_are_read_from_size_keys() -> None:
    assert shape_of("w64x2").key == "w64x2"
    assert shape_of("w64x2h4f512").model_dump(include={"num_heads", "ffn_dim"}) == {"num_heads": 4, "ffn_dim": 512}
    with pytest.raises(StudyError, match="not a size"):
        shape_of("big")
