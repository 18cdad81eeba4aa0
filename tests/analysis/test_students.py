"""Students of every teaching beside the plain runs of their seeds, and their figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytest.importorskip("seaborn")

from pipeline.analysis.figure_style import save, style
from pipeline.analysis.students import TEACHINGS, students_table
from pipeline.analysis.table import assemble
from pipeline.analysis.task_words import WORDS
from pipeline.analysis.training_figures import distillation
from pipeline.expected import expected_models
from pipeline.run_id import parse_run_id
from tests.analysis.synthetic import loss_of, report_entry, row_of

GAINS = {"word": 0.1, "sequence": -0.1, "both": 0.2, "bothinit": 0.3}


def _entry(sizes: list[str], teachings: list[str], *, seeds: int = 2) -> dict[str, Any]:
    plain = {
        f"toy-{size}-{how}-s{seed}": f"toy-{size}-s{seed}"
        for size in sizes
        for how in teachings
        for seed in range(seeds)
    }
    return report_entry(sizes=sizes, recipes=["q8"], students=list(plain), plain_of_student=plain)


def _table(entry: dict[str, Any], *, lost: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return a table whose second seed is 0.5 worse than the first, and whose students gain what `GAINS` says."""
    rows, translations = [], {}
    for model in expected_models(entry):
        identity = parse_run_id(model.run_id)
        loss = loss_of(identity["match"], identity["size"], identity["recipe"]) + 0.5 * identity["seed"]
        loss -= GAINS.get(identity["teaching"], 0.0)
        gone = {"status": "diverged", "valid_loss": None, "test_loss": None} if model.run_id in lost else {}
        rows.append(row_of(model.run_id, loss) | gone)
        if not gone:
            translations[model.run_id] = {"quality": 100 - 20 * loss}
    return assemble(entry, rows, translations, {})


def test_every_teaching_gains_over_the_plain_runs_of_its_own_seeds() -> None:
    entry = _entry(["w64x2", "w32x2"], list(GAINS), seeds=1)  # plain runs have three seeds
    students = students_table(_table(entry), entry)
    assert list(students["size"]) == ["w32x2"] * 5 + ["w64x2"] * 5
    assert list(students["teaching"][:5]) == ["plain", "word", "sequence", "both", "bothinit"]
    for _, line in students.iterrows():
        assert line["seeds"] == 1
        if line["teaching"] != "plain":
            assert line["loss_gain"] == pytest.approx(GAINS[line["teaching"]])
            assert line["quality_gain"] == pytest.approx(20 * GAINS[line["teaching"]])


def test_a_lost_student_leaves_the_others_and_their_seeds() -> None:
    entry = _entry(["w32x2"], ["word", "both"])
    lost = ("toy-w32x2-both-s0-seconds-fp32", "toy-w32x2-both-s1-seconds-fp32", "toy-w32x2-word-s1-seconds-fp32")
    students = students_table(_table(entry, lost=lost), entry).set_index("teaching")
    assert list(students.index) == ["plain", "word"]
    assert list(students["seeds"]) == [2, 1]
    assert students.loc["word", "loss_gain"] == pytest.approx(0.1)  # to the plain run of seed 0, not to both
    assert students.loc["word", "amortised_seconds"] == pytest.approx(299 + 299 / 4)


def test_without_its_plain_run_a_student_gains_nothing_that_could_be_said() -> None:
    entry = _entry(["w32x2"], ["word"])
    lost = tuple(f"toy-w32x2-s{seed}-seconds-fp32" for seed in range(2))
    students = students_table(_table(entry, lost=lost), entry)
    assert list(students["teaching"]) == ["word"]
    assert students["loss_gain"].isna().all()
    assert students_table(_table(_entry(["w32x2"], [])), _entry(["w32x2"], [])).empty


@pytest.mark.parametrize("teachings", [["word"], [name for name in TEACHINGS if name != "plain"]])
def test_the_figure_shows_every_teaching_at_every_size(teachings: list[str], tmp_path: Path) -> None:
    entry = _entry(["w32x2", "w64x2", "w128x2"], teachings, seeds=1)
    with style():
        figure = distillation(students_table(_table(entry), entry), words=WORDS["translation"])
        save(figure, tmp_path, "students")
    for axes in figure.axes:
        assert len(axes.get_lines()) == 1 + len(teachings)
        places = [x for line in axes.get_lines() for x in line.get_xdata()]
        assert len({round(x, 3) for x in places}) == 3 * (1 + len(teachings))  # nothing covers another
        assert {round(x) for x in places} == {0, 1, 2}
    named = [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]
    assert named == [TEACHINGS[how] for how in TEACHINGS if how in ("plain", *teachings)]
    wins = sum(GAINS.get(how, 0) > 0 for how in teachings) * 3
    assert (
        figure.axes[0]
        .get_title(loc="left")
        .replace("\n", " ")
        .startswith(f"At equal totals {wins} of {3 * len(teachings)}")
    )
