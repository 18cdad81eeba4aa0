"""verdict.md: the verdict as a table that a README can quote, with the command that made it."""

from __future__ import annotations

from typing import Any

from pipeline.analysis.engine_comparison import setting_name
from pipeline.analysis.first_study import claim_text
from pipeline.analysis.from_scratch import from_scratch_sentence
from pipeline.analysis.fronts import front_sentence
from pipeline.analysis.task_words import words_of
from pipeline.analysis.wording import limit_text, outcome, side, winner

NAMES = {"device_seconds": "Equal device seconds", "train_flops": "Equal training FLOPs"}


def _table(limits: list[dict[str, Any]], quality: str) -> list[str]:
    lines = [
        f"| limit | heavy | light | test loss, light - heavy | wins | {quality}, heavy - light | wins |",
        "|---|---|---|---|---|---|---|",
    ]
    for limit in limits:
        cells = [
            limit_text(limit),
            side(limit["heavy"]),
            side(limit["light"]),
            outcome(limit["by_loss"], 3),
            winner(limit["by_loss"]),
            outcome(limit, 2),
            winner(limit),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def verdict_markdown(verdict: dict[str, Any]) -> str:
    """Return the claims, one table a match and the first latency ladder, in Markdown; the numbers are those of verdict.json."""
    words = words_of(verdict["task"])
    quality = words.quality_axis
    lines = [f"**{verdict['claim']}**", ""]
    if verdict["latency_claim"]:
        lines += [verdict["latency_claim"], ""]
    for match in verdict["matches"]:
        lines += [
            f"{NAMES[match['matched']]} ({match['budget']}), on the test set:",
            "",
            *_table(match["limits"], quality),
        ]
    for one in verdict["latency"][:1]:
        where = setting_name((one["threads"], one["batch"]))
        lines += [
            f"{NAMES[one['matched']]} ({one['budget']}), median latency of a batch in the engine of each model ({where}), "
            f"{words.quality} of its own output, p adjusted within this ladder; other settings, each with p of its own, are on "
            "the page:",
            "",
            *_table(one["limits"], quality),
        ]
    if verdict["students_claim"]:
        lines += [verdict["students_claim"], ""]
    speeds = ", ".join(f"{size} {speed:.0f}" for size, speed in verdict["gflops_per_second"].items())
    thresholds = verdict["thresholds"]
    lines += [
        f"Positive favours heavy. 95 % intervals over seeds and sentences; p after Holm over the limits of each table. A winner "
        f"needs p < {thresholds['p_value']} and {thresholds['quality']} {words.quality_points} or {thresholds['loss_percent']:g} % "
        f"of loss. Training GFLOP/s: {speeds}.",
        "",
        *(f"- {front_sentence(one)}" for one in verdict["fronts"]),
        f"- {from_scratch_sentence(verdict['from_scratch'], words=words)}",
        "",
        "What of the first study's claims holds here:",
        "",
        *(f"- {claim_text(claim)}" for claim in verdict["first_study"]),
        "",
        f"Made by `python -m stages.report --study {verdict['study']}`.",
        "",
    ]
    return "\n".join(lines)
