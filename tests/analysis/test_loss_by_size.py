"""Where sizes end: the ends of branches alone, by width and by depth."""

from __future__ import annotations

import pandas as pd
import pytest

from pipeline.analysis.loss_by_size import branch_ends, loss_by_size, loss_by_size_sentences, lowest_end
from pipeline.analysis.task_words import WORDS

SIZES = ["w32x2", "w64x1", "w64x2", "w64x4", "w128x2"]
ENDS = {"w32x2": 3.0, "w64x1": 2.6, "w64x2": 2.4, "w64x4": 2.5, "w128x2": 2.7}


def curve(**changes: float) -> pd.DataFrame:
    """Return trunks that dip below every end, and branches whose ends are `ENDS`, a tenth higher at equal FLOPs."""
    points = []
    for size, end in (ENDS | changes).items():
        for seed in range(3):
            for phase, step, loss in (
                ("trunk", 10, 1.0),
                ("seconds", 20, end + 9.0),
                ("seconds", 30, end + 0.1 * (seed - 1)),
                ("flops", 25, 1.1 * end),
                ("seconds-early", 15, None),
            ):
                place = {"size": size, "seed": seed, "phase": phase, "step": step}
                points.append(place | {"train_seconds": 2.0 * step, "train_flops": 3e9 * step, "valid_loss": loss})
    return pd.DataFrame(points)


def test_only_the_last_point_of_a_branch_counts() -> None:
    ends = branch_ends(curve()).set_index(["size", "phase"])
    assert set(ends.index.get_level_values("phase")) == {"seconds", "flops"}
    one = ends.loc[("w64x2", "seconds")]
    assert one[["valid_loss", "step", "train_seconds", "seeds"]].tolist() == pytest.approx([2.4, 30, 60, 3])
    assert one["valid_loss_sd"] == pytest.approx(0.1)


def test_both_grids_are_found_and_their_lowest_ends() -> None:
    found = loss_by_size(curve(), SIZES)
    assert found["wide"] == {"num_layers": 2, "sizes": ["w32x2", "w64x2", "w128x2"]}
    assert found["deep"] == {"d_model": 64, "sizes": ["w64x1", "w64x2", "w64x4"]}
    assert [line["size"] for line in found["ends"]][::2] == SIZES
    best = lowest_end(found, found["deep"]["sizes"], "seconds")
    assert best is not None
    assert best["size"] == "w64x2"
    assert lowest_end(found, ["w256x2"], "seconds") is None


def test_sentences_say_where_in_the_grid_the_best_size_stands() -> None:
    found = loss_by_size(curve(w128x2=2.1), SIZES)
    wide, deep = loss_by_size_sentences(found, ["seconds", "flops"], words=WORDS["translation"])
    assert "Of the sizes of 2+2 layers the lowest validation loss is that of w128x2 at equal device seconds" in wide
    assert "(2.100, the widest of 3) and of w128x2 at equal training FLOPs (2.310, the widest of 3)" in wide
    assert "Of the sizes of width 64" in deep
    assert "w64x2 at equal device seconds (2.400, number 2 of 3 from the shallowest)" in deep
    encoders, _ = loss_by_size_sentences(found, ["seconds"], words=WORDS["classification"])
    assert encoders.startswith("Of the sizes of 2 layers the lowest validation loss in pretraining is that of")


def test_a_study_without_a_grid_says_so() -> None:
    found = loss_by_size(curve(), ["w32x2", "w64x4"])
    assert found["wide"] is found["deep"] is None
    assert loss_by_size_sentences(found, ["seconds"], words=WORDS["translation"]) == [
        "No two sizes of this study differ in width alone.",
        "No two sizes of this study differ in depth alone.",
    ]
