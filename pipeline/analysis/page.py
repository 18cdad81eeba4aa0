"""report.html: one file with everything in it, for a desk and for a phone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from pipeline.analysis import wording
from pipeline.analysis.captions import CAPTIONS
from pipeline.analysis.checks import check_sentences
from pipeline.analysis.claim import matches_disagree
from pipeline.analysis.damage import is_dense
from pipeline.analysis.engine_comparison import page_values
from pipeline.analysis.first_study import FAILS, HOLDS, LEAST_PAIRS
from pipeline.analysis.from_scratch import from_scratch_sentence
from pipeline.analysis.fronts import AXES, front_sentence
from pipeline.analysis.markdown import NAMES
from pipeline.analysis.methods import methods_table, side_by_side
from pipeline.analysis.rivals import ACCOUNTINGS
from pipeline.analysis.students import TEACHINGS
from pipeline.analysis.task_words import words_of
from pipeline.analysis.why import WEAK
from pipeline.expected import SCRATCH
from pipeline.selection import BUDGET_TOLERANCE

TEMPLATE = Path(__file__).with_name("page.html.j2")


def inline_svg(text: str, *, name: str, label: str) -> Markup:
    """Return an SVG file's text as an element of a page: ids of its own, scaled by the page, described by `label`."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", body, count=1)
    body = re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", body, count=1)
    return Markup(body.replace("<svg", f'<svg role="img" aria-label="{label.replace(chr(34), chr(39))}"', 1))


def dense_table(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one dict a (match, size) of uncompressed models: means over ok seeds, and the spread over seeds.

    Fewest parameters first; sizes of which no seed is ok come last.
    """
    dense = frame[is_dense(frame)]
    lines: list[dict[str, Any]] = []
    for (match, size), group in dense.groupby(["match", "size"], sort=False):
        good = group[group["status"] == "ok"]
        means = {
            name: good[name].mean()
            for name in ("params_total", "params_embedding", "tokens_per_param", "test_loss", "valid_loss")
        }
        spread = {f"{name}_sd": good[name].std(ddof=1) for name in ("test_loss", "quality")}
        speed = (good["train_flops"].sum() / good["train_seconds"].sum() / 1e9) if good["train_seconds"].sum() else None
        scores = {"quality": group["quality"].mean(skipna=False), "chrf": group["chrf"].mean(skipna=False)}
        costs = {name: good[name].mean() for name in ("size_bytes", "total_seconds", "total_flops")}
        lines.append(
            {"match": match, "size": size, "seeds": len(good), **means, **spread, **scores, **costs, "speed": speed}
        )
    matches = list(dict.fromkeys(line["match"] for line in lines))
    parameters = [float("inf") if pd.isna(line["params_total"]) else float(line["params_total"]) for line in lines]
    order = sorted(range(len(lines)), key=lambda place: (matches.index(lines[place]["match"]), parameters[place]))
    return [lines[place] for place in order]


def budget_lines(frame: pd.DataFrame, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one dict a match: its budget, the least and the most that a row spent, and how many rows overran.

    Controls, which spend a share of the budget alone, are left out.
    """
    lines = []
    for match in entry["matches"]:
        rows = frame[(frame["match"] == match) & (frame["status"] == "ok") & (frame["recipe"] != SCRATCH)]
        spent = rows[f"total_{match}"]
        over = rows[~rows["within_budget"].fillna(True).astype(bool)]
        lines.append(
            {
                "match": match,
                "budget": entry["budgets"][match],
                "least": spent.min(),
                "most": spent.max(),
                "over": sorted(over["run_id"]),
            }
        )
    return lines


def render_page(
    frame: pd.DataFrame,
    engines: pd.DataFrame,
    verdict: dict[str, Any],
    students: pd.DataFrame,
    figures: dict[str, str],
    *,
    entry: dict[str, Any],
    card: dict[str, Any],
    components: int,
) -> str:
    """Return the page's HTML; `engines` is the frame of engines.csv, `figures` SVG texts by name, `card` the corpus card.json."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    numbers = ("number", "signed", "scientific", "count", "megabytes", "p_value")
    filters = (*numbers, "outcome", "winner", "limit_text", "side_facts")
    environment.filters |= {name: getattr(wording, name) for name in filters}
    words, captions = words_of(entry["task"]), CAPTIONS[entry["task"]]
    signatures = frame[["signature", "chrf_signature"]].dropna(subset=["signature"]).drop_duplicates()
    return environment.get_template(TEMPLATE.name).render(
        study=entry["study"],
        entry=entry,
        verdict=verdict,
        words=words,
        disagree=matches_disagree(verdict["matches"]),
        names=NAMES,
        budgets=budget_lines(frame, entry),
        tolerance_percent=100 * BUDGET_TOLERANCE,
        dense=dense_table(frame),
        students=students.to_dict("records"),
        teachings=TEACHINGS,
        accountings=ACCOUNTINGS,
        fronts=[one | {"name": AXES[one["axis"]], "sentence": front_sentence(one)} for one in verdict["fronts"]],
        from_scratch_sentence=from_scratch_sentence(verdict["from_scratch"], words=words),
        checks=check_sentences(verdict, words=words),
        holds=HOLDS,
        fails=FAILS,
        weak=WEAK,
        least_pairs=LEAST_PAIRS,
        methods=methods_table(frame),
        rivals=side_by_side(frame),
        sizes=[str(size) for size in frame["size"].unique()],
        none_mark=wording.NONE,
        **page_values(frame, engines),
        lost=frame.loc[frame["status"] != "ok", ["run_id", "status"]].to_dict("records"),
        figures={name: inline_svg(text, name=name, label=captions[name]) for name, text in figures.items()},
        captions=captions,
        with_chrf=bool(frame["chrf"].notna().any()),
        card=card,
        components=components,
        signatures=[tuple(line) for line in signatures.itertuples(index=False)],
        seeds=sorted(frame.groupby("size")["seed"].nunique().unique()),
        rows=len(frame),
    )
