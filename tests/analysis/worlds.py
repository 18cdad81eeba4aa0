"""Synthetic studies whose verdict is known, without a file."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.table import assemble
from pipeline.analysis.verdict import build_verdict
from pipeline.expected import expected_models
from pipeline.run_id import parse_run_id
from tests.analysis.synthetic import Truth, curves_of, loss_of, report_entry, row_of
from tests.analysis.synthetic_engines import LOST, with_engines

COMPONENTS = 100


def world(
    truth: Truth = loss_of,
    *,
    entry: dict[str, Any] | None = None,
    noise: float = 0.005,
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: row,
    without_quality: str | None = None,
    engine_noise: float | None = None,
    change_table: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table,
    **engines: Any,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the verdict and the table of a world where quality is 100 - 20 x loss and sentences add a little noise.

    What engines put out has noise of its own, twice that of the weights' translations (nats a draw) or `engine_noise`.
    `change_table` may alter the frame of engines.csv, `engines` are changes of `tests.analysis.synthetic_engines.engine_records`.
    """
    entry = entry or report_entry()
    rng = np.random.default_rng(0)
    rows, translations = [], {}
    for run_id in (model.run_id for model in expected_models(entry)):
        identity = parse_run_id(run_id)
        loss = truth(identity["match"], identity["size"], identity["recipe"]) + rng.normal(0, noise)
        rows.append(change(row_of(run_id, loss)))
        if run_id != without_quality:
            translations[run_id] = {
                "quality": 100 - 20 * loss,
                "signature": "bleu",
                "chrf": 50.0,
                "chrf_signature": "chrf",
            }
    frame = assemble(entry, rows, translations, {})
    frame, table = with_engines(frame, **engines)
    table = change_table(table)
    losses = frame.set_index("run_id")["test_loss"]

    def loss_draws(run_id: str) -> np.ndarray:
        return losses[run_id] + np.random.default_rng(zlib.crc32(run_id.encode())).normal(0, noise / 10, size=100)

    deployed = frame.set_index("run_id")["latency_engine"]
    own_noise = noise / 5 if engine_noise is None else engine_noise

    def engine_draws(run_id: str) -> np.ndarray:
        engine = str(deployed[run_id])
        dice = np.random.default_rng(zlib.crc32(f"{run_id}.{engine}".encode()))
        return 100 - 20 * (losses[run_id] + dice.normal(0, own_noise, size=100)) - LOST[engine]

    verdict = build_verdict(
        frame,
        table,
        entry,
        curve=curves_of(entry),
        quality_draws=lambda name: 100 - 20 * loss_draws(name),
        engine_draws=engine_draws,
        loss_draws=loss_draws,
        components=COMPONENTS,
    )
    return verdict, frame
