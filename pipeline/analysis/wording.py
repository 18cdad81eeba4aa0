"""How numbers and verdicts are written for readers, the same on the page and in Markdown."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from pipeline.analysis.task_words import Words

MINUS, NONE = "\u2212", "\u2013"


def number(value: Any, digits: int = 2) -> str:
    """Write a number with a true minus sign, or a dash for what was not measured."""
    if value is None or pd.isna(value):
        return NONE
    return f"{value:,.{digits}f}".replace("-", MINUS)


def signed(value: Any, digits: int) -> str:
    """Write a difference with its sign."""
    if value is None or pd.isna(value):
        return NONE
    return f"{value:+.{digits}f}".replace("-", MINUS)


def scientific(value: Any) -> str:
    """Write a large amount to three digits, such as 3.00e+13."""
    return NONE if value is None or pd.isna(value) else f"{value:.2e}"


def count(value: Any) -> str:
    """Write a number of parameters or tokens: 912, 41.0k, 1.43M."""
    if value is None or pd.isna(value):
        return NONE
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def megabytes(value: Any) -> str:
    """Write bytes as decimal megabytes with three digits."""
    return NONE if value is None or pd.isna(value) else f"{value / 1e6:.3g} MB"


def p_value(value: Any) -> str:
    """Write a p-value, never as 0."""
    if value is None or pd.isna(value):
        return NONE
    return "<\u00a00.001" if value < 0.001 else f"{value:.3f}"


def outcome(result: dict[str, Any], digits: int) -> str:
    """Write a difference with its interval and adjusted p; a dash where a side does not fit."""
    if result["difference"] is None:
        return NONE
    if result["low"] is None:
        return f"{signed(result['difference'], digits)} (one seed: no interval)"
    interval = f"{signed(result['low'], digits)} to {signed(result['high'], digits)}"
    return f"{signed(result['difference'], digits)} ({interval}), p\u00a0{p_value(result['p_value'])}"


def winner(result: dict[str, Any]) -> str:
    """Write who won; a heavy winner that is also the larger model is marked as support for training large."""
    name = str(result["winner"])
    return "heavy, larger model" if result["supports_train_large"] else name


def milliseconds(value: Any) -> str:
    """Write milliseconds to three digits below 1, to hundredths below 10, to tenths below 100, else whole."""
    if value is None or pd.isna(value):
        return NONE
    if 0 < value < 1:
        return f"{value:.{2 - math.floor(math.log10(value))}f} ms"
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f} ms"


def limit_text(limit: dict[str, Any]) -> str:
    """Write the limit of an entry of verdict.json in its unit."""
    return {"bytes": megabytes, "ms": milliseconds}[str(limit["unit"])](limit["limit"])


def side(configuration: dict[str, Any] | None) -> str:
    """Write a configuration with its parameters and compression, and its latency where it was chosen by that."""
    if configuration is None:
        return "nothing fits"
    facts = [f"{count(configuration['params_total'])} parameters", f"{configuration['compression_ratio']:.1f}x"]
    if "latency_ms_p50" in configuration:
        facts.append(milliseconds(configuration["latency_ms_p50"]))
    return f"{configuration['config_id']} ({', '.join(facts)})"


def side_facts(configuration: dict[str, Any], words: Words) -> str:
    """Write what is known of a configuration besides its name; quality is of what ran, the engine where there is one."""
    parts = [f"{count(configuration['params_total'])} parameters, {number(configuration['compression_ratio'], 1)}x"]
    quality = configuration["quality"]
    if "latency_ms_p50" in configuration:
        parts.append(f"{milliseconds(configuration['latency_ms_p50'])} in {configuration['engine']}")
        quality = configuration["engine_quality"]
    parts.append(
        f"loss {number(configuration['test_loss'], 3)}, {words.quality} {number(quality, 1)}{words.quality_unit}"
    )
    return "; ".join(parts)
