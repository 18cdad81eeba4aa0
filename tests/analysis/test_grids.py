"""The sizes of a study in order, and which of them differ in one number alone."""

from __future__ import annotations

from pipeline.analysis.grids import deep_grid, sizes_in_order, wide_grid
from tests.analysis.synthetic import measured, report_entry


def test_grids_hold_what_differs_in_width_alone_and_in_depth_alone() -> None:
    sizes = ["w32x2", "w64x1", "w64x2", "w64x4", "w64x2f512", "w128x2", "w128x2h8"]
    wide, deep = wide_grid(sizes), deep_grid(sizes)
    assert wide is not None
    assert deep is not None
    assert (wide.sizes, wide.fixed) == (["w32x2", "w64x2", "w128x2"], 2)
    assert (deep.sizes, deep.fixed) == (["w64x1", "w64x2", "w64x4"], 64)


def test_one_size_is_no_grid() -> None:
    assert wide_grid(["w32x2", "w64x4"]) is None
    assert deep_grid(["w32x2", "w64x4"]) is None
    assert wide_grid([]) is None


def test_sizes_are_in_order_of_their_parameters() -> None:
    entry = report_entry(sizes=["w256x2", "w32x2", "w128x4", "w128x2"], seeds=1, recipes=["q8"], students=[])
    assert sizes_in_order(measured(entry)) == ["w32x2", "w128x2", "w128x4", "w256x2"]
