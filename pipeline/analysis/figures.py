"""Every figure of a report, with its caption, in the order in which the page shows them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from pipeline.analysis.compression_figures import every_configuration
from pipeline.analysis.figure_style import save, style
from pipeline.analysis.latency_figures import quality_and_latency
from pipeline.analysis.latency_limits import LATENCY_TOLERANCE
from pipeline.analysis.robustness_figures import loss_added
from pipeline.analysis.training_figures import curves, distillation, final_quality
from pipeline.analysis.why_figures import why

CAPTIONS = {
    "bytes_loss": "Test loss against file size, every configuration that every seed has, means over seeds. The front is "
    "chosen on validation loss. Dotted lines are the limits.",
    "bytes_quality": "The same in translation quality, first seed, for the configurations that were translated: one "
    "curve a size at equal device seconds, and what was chosen at the limits. Every recipe that this seed has takes part, and the "
    "front is that of the scores drawn; the verdict chooses on validation loss, among recipes that all seeds have.",
    "flops_loss": "Test loss against the FLOPs of answering, a target token, every configuration in fp32: rounding saves no "
    "FLOP. Masked weights count as skipped, which only an engine with sparse kernels does; parts that were removed whole are "
    "saved by any engine.",
    "loss_added": "Test loss that compression adds to each size's fp32 model, equal device seconds, every seed against its "
    "own. What was trained on paid for it out of the same budget. Linear below 0.1 nats, logarithmic above.",
    "why": "Models rounded to nearest, a grid a row: the relative error of their weights, and the test loss it adds to the "
    "very model that was rounded. Lines join models that differ in what is drawn against and in nothing else but what follows "
    "from it; tau is Kendall's rank correlation over such pairs of one seed (1: always larger, \u22121: always smaller). "
    "Hollow: trained for less long.",
    "final_quality": "Uncompressed models at the end of their budget; small dots are seeds.",
    "curves_seconds": "Validation loss against device seconds, first seed. Thin lines are constant-rate trunks, marks "
    "are the ends of cooldowns: only marks are compared.",
    "curves_flops": "The same against training FLOPs.",
    "distillation": "Students and plain runs of the same size at the same total, teacher passes and decoding included.",
    "latency": "The configurations that were deployed, against the median latency of their engine (first seed), equal device "
    "seconds. Quality is that of the engines' own output; loss is that of the weights as written, and its front is chosen on "
    "validation loss. Weights of fewer than 8 bits run as int8. Thin lines join a size's int8 and fp32. Dotted lines are "
    f"the limits; what is slower by {LATENCY_TOLERANCE:.0%} at most counts as equally fast.",
}


def write_figures(
    frame: pd.DataFrame,
    engines: pd.DataFrame,
    curve: pd.DataFrame,
    students: pd.DataFrame,
    limits: list[int],
    *,
    quality_name: str,
    folder: Path,
) -> dict[str, str]:
    """Write each figure of `CAPTIONS` to `folder` as SVG and PNG; return {name: SVG text}."""
    mpl.use("Agg")
    against = functools.partial(every_configuration, frame, limits, quality_name=quality_name)
    drawn: dict[str, Callable[[], Figure]] = {
        "bytes_loss": lambda: against(cost="size_bytes", column="test_loss"),
        "bytes_quality": lambda: against(cost="size_bytes", column="quality"),
        "flops_loss": lambda: against(cost="infer_flops_per_token", column="test_loss"),
        "loss_added": lambda: loss_added(frame),
        "why": lambda: why(frame),
        "final_quality": lambda: final_quality(frame, quality_name=quality_name),
        "curves_seconds": lambda: curves(curve, frame, match="seconds"),
        "curves_flops": lambda: curves(curve, frame, match="flops"),
        "distillation": lambda: distillation(students, quality_name=quality_name),
        "latency": lambda: quality_and_latency(frame, engines, len(limits), quality_name=quality_name),
    }
    folder.mkdir(parents=True, exist_ok=True)
    texts: dict[str, Any] = {}
    with style():
        for name, draw in drawn.items():
            save(draw(), folder, name)
            texts[name] = (folder / f"{name}.svg").read_text(encoding="utf-8")
    return texts
