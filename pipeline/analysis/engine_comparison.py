"""What each engine makes of each model: the same hypotheses or not, its own score, its files, its speed."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipeline.analysis.latency_limits import Setting, timed_settings
from pipeline.selection import PRIMARY_MATCH

_SHAPE = ["d_model", "num_layers", "num_heads", "ffn_dim"]


def setting_name(setting: Setting) -> str:
    """Write threads and batch size, such as ``1 thread, batch 32``."""
    threads, batch = setting
    return f"{threads} thread{'s' if threads > 1 else ''}, batch {batch}"


def engine_lines(frame: pd.DataFrame, engines: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one dict a (model, engine) of each configuration's first seed under the primary match, in their order.

    `quality` is that of the row (the weights as written, in fp32 arithmetic), `engine_quality` that of the engine's own
    output; `latency` is {setting: median in milliseconds a batch} and `speedup` {setting: the same engine's fp32 median on
    a model of this shape / this median}, both of what was timed; `compared` says that several engines ran the model.
    """
    here = engines[engines["match"] == PRIMARY_MATCH]
    here = here[here["seed"] == here.groupby("config_id")["seed"].transform("min")]
    rows = frame.set_index("run_id")
    shape = {run_id: tuple(rows.loc[run_id, _SHAPE]) for run_id in here["run_id"].unique()}
    medians: dict[tuple[str, str], dict[Setting, float]] = {}
    for line in here[here["latency_ms_p50"].notna()].itertuples():
        setting = (int(line.threads), int(line.batch))
        medians.setdefault((str(line.run_id), str(line.engine)), {})[setting] = float(line.latency_ms_p50)
    whole: dict[tuple[Any, str], dict[Setting, float]] = {}
    for (run_id, engine), by_setting in medians.items():
        family, _, computes_in = engine.rpartition("-")
        if computes_in == "float32":
            whole.setdefault((shape[run_id], family), by_setting)
    several = here.groupby("run_id")["engine"].nunique() > 1
    lines = []
    for line in here.drop_duplicates(["run_id", "engine"]).to_dict("records"):
        run_id, engine = str(line["run_id"]), str(line["engine"])
        latency = medians.get((run_id, engine), {})
        family, _, computes_in = engine.rpartition("-")
        fp32 = whole.get((shape[run_id], family), {}) if computes_in != "float32" else {}
        lines.append(
            {
                **{name: line[name] for name in ("run_id", "config_id", "engine", "status")},
                "deployed": bool(line["deployed"]),
                "note": None if pd.isna(line["note"]) else str(line["note"]),
                "same_hypotheses": line["same_hypotheses"],
                "quality": rows.loc[run_id, "quality"],
                "engine_quality": line["quality"],
                "engine_bytes": line["engine_bytes"],
                "latency": latency,
                "speedup": {setting: fp32[setting] / ms for setting, ms in latency.items() if setting in fp32},
                "compared": bool(several[run_id]),
            }
        )
    return lines


def engine_notes(engines: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one dict a note that the engines left on models of any seed and match: `models` of them, refusals first.

    `configurations` are the config_ids.
    """
    noted = engines[engines["note"].notna()].drop_duplicates(["run_id", "engine"])
    order = {"refused": 0, "differs": 1, "ok": 2}
    lines = [
        {
            "engine": engine,
            "status": status,
            "note": note,
            "models": len(group),
            "configurations": list(group["config_id"].unique()),
        }
        for (engine, status, note), group in noted.groupby(["engine", "status", "note"], sort=False)
    ]
    return sorted(lines, key=lambda line: order[str(line["status"])])


def page_values(frame: pd.DataFrame, engines: pd.DataFrame) -> dict[str, Any]:
    """Return what the page's section on latency shows besides the verdict's ladders."""
    return {
        "engine_lines": engine_lines(frame, engines),
        "engine_notes": engine_notes(engines),
        "settings": timed_settings(engines),
        "setting_name": setting_name,
    }
