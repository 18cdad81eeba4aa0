"""Tables of the page, and how its numbers are written."""

from __future__ import annotations

import pytest

from pipeline.analysis.page import dense_table
from pipeline.analysis.wording import milliseconds
from tests.analysis.synthetic import measured, report_entry


def test_a_size_without_a_measured_model_comes_last() -> None:
    frame = measured(report_entry(sizes=["w32x2", "w64x2"], recipes=["q8"], students=[], plain_of_student={}))
    lost = (frame["match"] == "seconds") & (frame["size"] == "w32x2") & (frame["recipe"] == "fp32")
    frame.loc[lost, ["status", "params_total"]] = ["diverged", None]
    lines = [(line["match"], line["size"]) for line in dense_table(frame)]
    assert lines == [("seconds", "w64x2"), ("seconds", "w32x2"), ("flops", "w32x2"), ("flops", "w64x2")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1062, "0.106 ms"),
        (0.0123, "0.0123 ms"),
        (0.5, "0.500 ms"),
        (1.5, "1.50 ms"),
        (23.45, "23.4 ms"),
        (None, "\u2013"),
    ],
)
def test_latencies_have_three_digits(value: float | None, text: str) -> None:
    assert milliseconds(value) == text
