"""Every figure of a report: those of its task, in the order of their captions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from pipeline.analysis.captions import CAPTIONS
from pipeline.analysis.checks_figures import early_and_late, loss_by_size, time_to_loss
from pipeline.analysis.compression_figures import every_configuration
from pipeline.analysis.figure_style import is_empty, save, style
from pipeline.analysis.finetuning_figures import equal_pretraining_loss, what_pretraining_brought
from pipeline.analysis.latency_figures import quality_and_latency
from pipeline.analysis.robustness_figures import loss_added
from pipeline.analysis.task_words import words_of
from pipeline.analysis.training_figures import curves, distillation, final_quality
from pipeline.analysis.why_figures import why


def write_figures(
    frame: pd.DataFrame,
    engines: pd.DataFrame,
    curve: pd.DataFrame,
    students: pd.DataFrame,
    limits: list[int],
    *,
    verdict: dict[str, Any],
    folder: Path,
) -> dict[str, str]:
    """Write each of the task's figures to `folder` as SVG and PNG; return {name: SVG text} in the order of `CAPTIONS`.

    A figure of which the study has nothing to draw is left out.

    `curve` is the frame of curves.csv, `limits` are bytes; `verdict` has the task, and the checks that figures are drawn of.
    """
    mpl.use("Agg")
    words = words_of(verdict["task"])
    against = functools.partial(every_configuration, frame, limits, words=words)
    drawn: dict[str, Callable[[], Figure]] = {
        "bytes_loss": lambda: against(cost="size_bytes", column="test_loss"),
        "bytes_quality": lambda: against(cost="size_bytes", column="quality"),
        "flops_loss": lambda: against(cost="infer_flops_per_token", column="test_loss"),
        "loss_added": lambda: loss_added(frame),
        "why": lambda: why(frame),
        "final_quality": lambda: final_quality(frame, words=words),
        "curves_seconds": lambda: curves(curve, frame, match="seconds", words=words),
        "curves_flops": lambda: curves(curve, frame, match="flops", words=words),
        "distillation": lambda: distillation(students, words=words),
        "latency": lambda: quality_and_latency(frame, engines, len(limits), words=words),
        "loss_by_size": lambda: loss_by_size(curve, frame, verdict["loss_by_size"], words=words),
        "time_to_loss": lambda: time_to_loss(frame, verdict["time_to_loss"]),
        "equal_pretraining_loss": lambda: equal_pretraining_loss(frame, verdict["equal_pretraining_loss"], words=words),
        "what_pretraining_brought": lambda: what_pretraining_brought(
            frame, verdict["what_pretraining_brought"], words=words
        ),
        "early_and_late": lambda: early_and_late(frame, verdict["early_and_late"]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    texts: dict[str, Any] = {}
    with style():
        for name in CAPTIONS[verdict["task"]]:
            figure = drawn[name]()
            if is_empty(figure):
                continue
            save(figure, folder, name)
            texts[name] = (folder / f"{name}.svg").read_text(encoding="utf-8")
    return texts
