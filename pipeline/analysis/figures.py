"""Every figure of a report, with its caption, in the order in which the page shows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from pipeline.analysis.compression_figures import bytes_against, loss_added
from pipeline.analysis.figure_style import save, style
from pipeline.analysis.training_figures import curves, distillation, final_quality, latency

CAPTIONS = {
    "bytes_loss": "Test loss against file size, every configuration, means over seeds. Dotted lines are the limits.",
    "bytes_quality": "The same in translation quality, first seed, for the configurations that were translated: one "
    "curve a size at equal device seconds, and what was chosen at the limits.",
    "loss_added": "Validation loss that compression adds to each size's fp32 model, equal device seconds. Pruned rows "
    "paid for their finetuning out of the same budget.",
    "final_quality": "Uncompressed models at the end of their budget; small dots are seeds.",
    "curves_seconds": "Validation loss against device seconds, first seed. Thin lines are constant-rate trunks, marks "
    "are the ends of cooldowns: only marks are compared.",
    "curves_flops": "The same against training FLOPs.",
    "distillation": "Students and plain runs of the same size at the same total, teacher passes and decoding included.",
    "latency": "Uncompressed models, first seed; the line above a mark runs to the 95th percentile.",
}


def write_figures(
    frame: pd.DataFrame,
    curve: pd.DataFrame,
    students: pd.DataFrame,
    limits: list[int],
    *,
    quality_name: str,
    folder: Path,
) -> dict[str, str]:
    """Write each figure of `CAPTIONS` to `folder` as SVG and PNG; return {name: SVG text}."""
    mpl.use("Agg")
    drawn: dict[str, Callable[[], Figure]] = {
        "bytes_loss": lambda: bytes_against(frame, limits, column="test_loss", quality_name=quality_name),
        "bytes_quality": lambda: bytes_against(frame, limits, column="quality", quality_name=quality_name),
        "loss_added": lambda: loss_added(frame),
        "final_quality": lambda: final_quality(frame, quality_name=quality_name),
        "curves_seconds": lambda: curves(curve, frame, match="seconds"),
        "curves_flops": lambda: curves(curve, frame, match="flops"),
        "distillation": lambda: distillation(students, quality_name=quality_name),
        "latency": lambda: latency(frame, quality_name=quality_name),
    }
    folder.mkdir(parents=True, exist_ok=True)
    texts: dict[str, Any] = {}
    with style():
        for name, draw in drawn.items():
            save(draw(), folder, name)
            texts[name] = (folder / f"{name}.svg").read_text(encoding="utf-8")
    return texts
