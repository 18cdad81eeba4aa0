"""Figures are drawn from whatever a table holds, even from little."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

pytest.importorskip("seaborn")

from matplotlib.figure import Figure

from pipeline.analysis.checks_figures import early_and_late, loss_by_size, time_to_loss
from pipeline.analysis.compression_figures import every_configuration
from pipeline.analysis.figure_style import is_empty, style
from pipeline.analysis.finetuning_figures import equal_pretraining_loss, what_pretraining_brought
from pipeline.analysis.fronts import fronts
from pipeline.analysis.latency_figures import latency_front, quality_and_latency
from pipeline.analysis.loss_by_size import loss_by_size as ends_by_size
from pipeline.analysis.robustness_figures import loss_added
from pipeline.analysis.students import students_table
from pipeline.analysis.table import assemble
from pipeline.analysis.task_words import WORDS
from pipeline.analysis.training_figures import curves, distillation, final_quality
from pipeline.analysis.why_figures import why
from pipeline.expected import expected_models
from pipeline.run_id import parse_run_id
from tests.analysis.synthetic import RECIPES, curves_of, loss_of, report_entry, row_of
from tests.analysis.synthetic_engines import usual_ms, with_engines

CURVE_COLUMNS = ["key", "size", "seed", "phase", "step", "train_seconds", "train_flops", "valid_loss"]


def table(entry: dict) -> pd.DataFrame:
    rows = []
    for run_id in (model.run_id for model in expected_models(entry)):
        identity = parse_run_id(run_id)
        rows.append(row_of(run_id, loss_of(identity["match"], identity["size"], identity["recipe"])))
    return assemble(entry, rows, {}, {})


@pytest.fixture(scope="module")
def sparse() -> pd.DataFrame:
    """A study of one size and one seed, without BLEU, students, latency or pruning."""
    return table(report_entry(sizes=["w32x2"], seeds=1, students=[], plain_of_student={}, recipes=["q8"]))


def drawn(figure: Figure) -> Figure:
    figure.canvas.draw()
    return figure


@pytest.mark.filterwarnings("error")
def test_a_poor_study_still_has_its_figures(sparse: pd.DataFrame) -> None:
    nothing = pd.DataFrame(columns=CURVE_COLUMNS)
    frame, engines = with_engines(sparse)
    only_flops_timed = frame, engines[engines["match"] == "flops"]
    with style():
        for figure in (
            every_configuration(sparse, [200_000], cost="size_bytes", column="test_loss", words=WORDS["translation"]),
            every_configuration(sparse, [200_000], cost="size_bytes", column="quality", words=WORDS["translation"]),
            every_configuration(
                sparse, [], cost="infer_flops_per_token", column="test_loss", words=WORDS["translation"]
            ),
            loss_added(sparse),
            why(sparse),
            final_quality(sparse, words=WORDS["translation"]),
            curves(nothing, sparse, match="seconds", words=WORDS["translation"]),
            distillation(pd.DataFrame(), words=WORDS["translation"]),
            quality_and_latency(sparse, with_engines(sparse)[1].head(0), 8, words=WORDS["translation"]),
            quality_and_latency(*only_flops_timed, 8, words=WORDS["translation"]),
            loss_by_size(nothing, sparse, {"wide": None, "deep": None, "ends": []}, words=WORDS["translation"]),
            time_to_loss(sparse, []),
            early_and_late(sparse, []),
            equal_pretraining_loss(sparse, {"points": [], "common": []}, words=WORDS["classification"]),
            what_pretraining_brought(sparse, [], words=WORDS["classification"]),
        ):
            drawn(figure)


def test_a_size_that_never_reaches_a_loss_is_drawn_hollow_where_its_trunk_ends() -> None:
    frame = table(report_entry(sizes=["w32x2", "w64x2"], students=[], plain_of_student={}))
    lines = [
        {"loss": 3.0, "size": "w32x2", "censored": True, "steps": 900.0, "seconds": 90.0, "flops": 9e12},
        {"loss": 3.0, "size": "w64x2", "censored": False, "steps": 400.0, "seconds": 80.0, "flops": 20e12},
    ]
    with style():
        steps, _, flops = drawn(time_to_loss(frame, lines)).axes
    hollow = [line for line in steps.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert [list(line.get_ydata()) for line in hollow] == [[900.0]]
    assert [[y for y in line.get_ydata() if y == y] for line in flops.lines if len(line.get_xdata())] == [[20.0], [9.0]]
    assert steps.get_title(loc="left").replace("\n", " ") == "The larger of two sizes took fewer steps in 1 of 1 pairs"
    assert flops.get_title(loc="left").replace("\n", " ") == "The larger of two sizes took fewer FLOPs in 0 of 0 pairs"


def test_a_size_without_a_model_is_drawn_by_no_parameters() -> None:
    """Its trunk has points in curves.csv, though every branch of it diverged."""
    frame = table(report_entry(sizes=["w32x2", "w64x2"], students=[], plain_of_student={}))
    frame.loc[frame["size"] == "w64x2", "params_total"] = pd.NA
    times = [
        {"loss": 3.0, "size": size, "censored": False, "steps": 900.0, "seconds": 90.0, "flops": 9e12}
        for size in ("w32x2", "w64x2")
    ]
    gain = {"difference": 1.0, "low": 0.5, "high": 1.5}
    side = {"quality": 70.0, "test_loss": 0.5}
    brought = [
        {"match": "seconds", "size": size, "pretrained": side, "scratch": side, "quality": gain, "loss": gain}
        for size in ("w32x2", "w64x2")
    ]
    with style():
        steps, *_ = drawn(time_to_loss(frame, times)).axes
        drawn(what_pretraining_brought(frame, brought, words=WORDS["classification"]))
    assert [list(line.get_ydata()) for line in steps.lines if len(line.get_xdata())] == [[900.0]]


def test_marks_of_losses_by_size_are_ends_of_branches_alone() -> None:
    entry = report_entry(sizes=["w32x2", "w64x2", "w128x2", "w128x4"], students=[], plain_of_student={})
    frame, curve = table(entry), curves_of(entry)
    found = ends_by_size(curve, ["w32x2", "w64x2", "w128x2", "w128x4"])
    with style():
        wide, deep = drawn(loss_by_size(curve, frame, found, words=WORDS["translation"])).axes
    marks = sorted(float(y) for line in wide.lines if line.get_linestyle() == "None" for y in line.get_ydata())
    ends = sorted(line["valid_loss"] for line in found["ends"] if line["size"] != "w128x4")
    assert marks == pytest.approx(ends)
    assert "By depth (width 128): w128x2 ends lowest" in deep.get_title(loc="left").replace("\n", " ")


def test_a_grid_that_a_study_has_not_has_no_panel() -> None:
    entry = report_entry(sizes=["w32x2", "w64x2"], students=[], plain_of_student={})
    frame, curve = table(entry), curves_of(entry)
    with style():
        figure = drawn(loss_by_size(curve, frame, ends_by_size(curve, ["w32x2", "w64x2"]), words=WORDS["translation"]))
        nothing = loss_by_size(curve, frame, ends_by_size(curve, ["w32x2"]), words=WORDS["translation"])
    (only,) = figure.axes
    assert only.get_title(loc="left").startswith("By width")
    assert (is_empty(figure), is_empty(nothing)) == (False, True)


def test_titles_say_what_is_seen() -> None:
    frame = table(report_entry(sizes=["w32x2", "w256x2"]))
    with style():
        above, below = loss_added(frame).axes
    assert above.get_title(loc="left").replace("\n", " ") == "3 bits add 0.31 nats to w32x2, 0.16 to w256x2"
    assert below.get_title(loc="left").startswith("90% pruned weights add")


def test_small_losses_are_drawn_and_written_as_small() -> None:
    frame = table(report_entry(sizes=["w32x2", "w256x2"], students=[], plain_of_student={}))
    dense = (
        frame["test_loss"].where(frame["recipe"] == "fp32").groupby([frame["match"], frame["size"]]).transform("max")
    )
    frame["test_loss"] = dense + frame["recipe"].map({"fp32": 0.0, "q3": -0.0002}).fillna(0.004)
    with style():
        above, _ = loss_added(frame).axes
    assert above.get_title(loc="left").replace("\n", " ") == "3 bits add 0.000 nats to w32x2, 0.000 to w256x2"
    assert above.get_yscale() == "linear"
    assert 0.004 < above.get_ylim()[1] < 0.006


def test_the_best_cooled_endpoint_is_named() -> None:
    frame = table(report_entry(sizes=["w32x2", "w64x2"]))
    points = [
        ("w32x2", "trunk", 100, 3.5),
        ("w32x2", "seconds", 300, 3.0),
        ("w64x2", "trunk", 100, 2.0),
        ("w64x2", "seconds", 300, 3.1),
    ]
    curve = pd.DataFrame(
        [
            {"size": s, "seed": 0, "phase": p, "train_seconds": t, "train_flops": t * 1e10, "valid_loss": v}
            for s, p, t, v in points
        ]
    )
    with style():
        (axes,) = curves(curve, frame, match="seconds", words=WORDS["translation"]).axes
    assert axes.get_title(loc="left").replace("\n", " ") == "w32x2 ends lowest at equal device seconds (3.00)"


def test_students_stand_beside_plain_runs_with_three_totals() -> None:
    entry = report_entry(sizes=["w32x2", "w64x2"])
    students = students_table(table(entry), entry)
    assert list(students["teaching"][:3]) == ["plain", "word", "sequence"]
    word = students[(students["size"] == "w32x2") & (students["teaching"] == "word")].iloc[0]
    assert word["seeds"] == 2
    assert word["total_seconds"] == pytest.approx(299)
    assert word["amortised_seconds"] == pytest.approx(299 + 299 / 8)
    assert word["included_seconds"] == pytest.approx(2 * 299)
    plain = students[(students["size"] == "w32x2") & (students["teaching"] == "plain")].iloc[0]
    assert plain["included_seconds"] == plain["total_seconds"]


def test_a_better_student_gains() -> None:
    entry = report_entry(sizes=["w32x2", "w64x2"])
    frame = table(entry)
    frame.loc[frame["teaching"] == "word", "test_loss"] -= 0.2
    students = students_table(frame, entry).set_index(["size", "teaching"])
    assert students.loc[("w64x2", "word"), "loss_gain"] == pytest.approx(0.2)
    assert students.loc[("w64x2", "sequence"), "loss_gain"] == pytest.approx(0.0)


def test_every_method_is_drawn_and_titles_hold_what_the_tables_hold() -> None:
    only: dict[str, Any] = {"seeds": 1, "matches": ["seconds"]}
    limited = dict.fromkeys(("early", "early4", "early3", "once50", "q4tensor"), only)
    limited["width50"] = {"sizes": ["w64x2", "w128x2", "w256x2"]}
    frame = table(report_entry(students=[], plain_of_student={}, recipes=list(RECIPES), limited=limited))
    with style():
        upper, lower = every_configuration(
            frame, [], cost="infer_flops_per_token", column="test_loss", words=WORDS["translation"]
        ).axes
        panels = why(frame).axes
    held = next(one for one in fronts(frame) if one["axis"] == "infer_flops_per_token")
    compressed = sum(member["kind"] != "none" for member in held["members"])
    seen = upper.get_title(loc="left").replace("\n", " ")
    assert seen == f"At equal device seconds {compressed} of {len(held['members'])} on the Pareto front are compressed"
    labels = {text.get_text() for text in lower.get_legend().get_texts()}
    assert {"fp32", "masks", "structured", "Pareto front"} <= labels
    assert not {"GPTQ", "limits"} & labels
    assert [axes.get_xlabel() for axes in panels] == ["width", "depth", "tokens a parameter"] * 2
    assert all("(tau " in axes.get_title(loc="left").replace("\n", " ") for axes in panels)


def test_a_front_of_latency_is_not_decided_by_noise() -> None:
    points = pd.DataFrame({"latency_ms_p50": [1.0, 1.02, 2.0, 2.1, 3.0], "valid_loss": [2.5, 2.0, 1.8, 1.7, 1.75]})
    assert list(latency_front(points, "valid_loss").index) == [1, 2, 3]


def test_of_equal_quality_the_slower_is_not_on_a_front_of_latency() -> None:
    points = pd.DataFrame({"latency_ms_p50": [1.0, 1.02, 2.0], "chosen_by": [-70.0, -70.0, -70.0]})
    assert list(latency_front(points, "chosen_by").index) == [0, 1]


def much_faster_when_pruned(row: dict[str, Any], engine: str, threads: int, batch: int) -> float:
    return usual_ms(row, engine, threads, batch) * (0.5 if row["recipe"] == "width50" else 1.0)


def test_latency_is_drawn_by_side_with_every_size_named() -> None:
    limited = {"width50": {"sizes": ["w64x2", "w256x2"]}}
    entry = report_entry(recipes=["q8", "q4", "width50"], limited=limited, students=[], plain_of_student={})
    frame, engines = with_engines(table(entry), milliseconds=much_faster_when_pruned)
    with style():
        figure = drawn(quality_and_latency(frame, engines, 8, words=WORDS["translation"]))
    above, below = figure.axes
    for axes in (above, below):
        texts = [text.get_text() for text in axes.texts]
        assert sorted(text for text in texts if "/" not in text) == sorted(frame["size"].unique())
        assert [line.get_label() for line in axes.collections if len(line.get_offsets())] == [
            "light",
            "heavy",
            "neither",
        ]
        assert axes.get_xlabel() == "ms a batch, median (1 thread, batch 1)"
    assert "w256x2/width50" in {text.get_text() for text in below.texts}
    assert "0 are heavily compressed" in below.get_title(loc="left").replace("\n", " ")


def test_what_is_about_as_fast_as_a_light_model_of_its_size_is_not_labelled() -> None:
    limited = {"width50": {"sizes": ["w64x2", "w256x2"]}}
    entry = report_entry(recipes=["q8", "q4", "width50"], limited=limited, students=[], plain_of_student={})
    with style():
        labels = [
            {text.get_text() for text in quality_and_latency(*world, 8, words=WORDS["translation"]).axes[1].texts}
            for world in (
                with_engines(table(entry)),  # half the width in fp32 takes a tenth more or less than the whole in int8
                with_engines(table(entry), milliseconds=much_faster_when_pruned),
            )
        ]
    assert labels[1] - labels[0] == {"w64x2/width50", "w256x2/width50"}


def test_without_an_int8_model_latency_is_drawn_without_limits() -> None:
    frame, engines = with_engines(table(report_entry(recipes=["q8", "q4"], students=[], plain_of_student={})))
    without = engines[~engines["run_id"].str.endswith("q8")]
    with style():
        dotted = [
            sum(
                line.get_linestyle() == ":"
                for line in quality_and_latency(frame, told, 8, words=WORDS["translation"]).axes[0].lines
            )
            for told in (engines, without)
        ]
    assert dotted == [8, 0]
