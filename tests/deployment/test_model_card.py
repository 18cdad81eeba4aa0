"""Model cards: numbers are those of the results, and what was not measured says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from pipeline.compression.formats import size_bytes
from pipeline.deployment.export import export
from pipeline.deployment.measurements import read_measurements
from pipeline.deployment.sources import Source

ROW: dict[str, Any] = {
    "run_id": "tiny-w32x2-s0-seconds-q4",
    "quality": 31.3029,
    "quality_low": 29.75,
    "quality_high": 32.82,
    "chrf": 50.1744,
    "signature": "nrefs:1|tok:13a",
    "chrf_signature": "nc:6",
    "test_loss": 2.05575,
    "compression_ratio": 6.84,
    "latency_engine": None,
}
ENGINE: dict[str, Any] = {
    "run_id": ROW["run_id"],
    "engine": "ctranslate2-int8",
    "status": "ok",
    "note": "its 4-bit weights run as int8",
    "same_hypotheses": 0.9955,
    "engine_bytes": 600000,
    "quality": 31.1111,
    "quality_low": 29.5,
    "quality_high": 32.5,
    "chrf": 50.0,
}


def _results(folder: Path, row: dict[str, Any], engines: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    pd.DataFrame([row, row | {"run_id": "tiny-w32x2-s1-seconds-q4", "quality": 99.0}]).to_parquet(
        folder / "runs.parquet"
    )
    if engines:
        pd.DataFrame(engines).to_csv(folder / "engines.csv", index=False)
    return folder


def _card(directory: Path) -> tuple[dict[str, Any], str]:
    _, header, text = (directory / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(header), text


def test_a_card_has_the_results_numbers(four_bits: Source, tmp_path: Path) -> None:
    timed = [ENGINE | {"threads": 1, "batch": 1, "latency_ms_p50": 1.25, "latency_ms_p95": 2.5}]
    timed += [ENGINE | {"threads": 2, "batch": 32, "latency_ms_p50": 11.0, "latency_ms_p95": 15.0}]
    row = ROW | {"size_bytes": size_bytes(four_bits.directory)}
    results = _results(tmp_path / "results", row, [ENGINE | {"engine": "torch", "quality": 7.0}, *timed])
    exported = export(four_bits, tmp_path / "out", results=results)
    header, text = _card(tmp_path / "out")
    assert header["language"] == ["en", "fr"]
    assert (header["license"], header["license_name"]) == ("other", "CC0")
    assert header["library_name"] == "ctranslate2"
    assert header["metrics"] == ["bleu", "chrf"]
    values = {metric["type"]: metric["value"] for metric in header["model-index"][0]["results"][0]["metrics"]}
    assert values == {"bleu": 31.11, "chrf": 50.0}
    assert "in fp32 arithmetic | 31.30 | 29.8 to 32.8 | 50.17 |" in text
    assert "this directory's own output | 31.11 | 29.5 to 32.5 | 50.00 |" in text
    assert "| 1 | 1 | 1.2 ms | 2.5 ms |" in text
    assert "| 2 | 32 | 11.0 ms | 15.0 ms |" in text
    assert "its 4-bit weights run as int8" in text
    assert "99.55 % of the greedy hypotheses of CTranslate2 with float32 weights, converted from the same" in text
    assert "those of int8 were not compared" in text
    assert f"| `model.bin` | {exported.files['model.bin']:,} |" in text
    assert "uniform (bits 4, granularity row)" in text
    assert "charged: train 40.0 s, 2e+12 FLOP" in text
    assert "Licence of the training data: CC0. Credit: nobody." in text
    assert "99.0" not in text
    assert "7.00" not in text


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("ctranslate2-float32", "of this engine are those of our own decoder."),
        (
            "ctranslate2-int16",
            "of CTranslate2 with float32 weights, converted from the same weights in the same way, are",
        ),
        ("packed", "of our own decoder, which runs this form, are those of transformers' generate."),
    ],
)
def test_an_agreement_is_of_what_was_compared(form: str, says: str, four_bits: Source, tmp_path: Path) -> None:
    row = ROW | {"size_bytes": size_bytes(four_bits.directory)}
    engine = ENGINE | {"engine": "torch" if form == "packed" else form}
    export(four_bits, tmp_path / "out", form=form, results=_results(tmp_path / "results", row, [engine]))
    assert f"99.55 % of the greedy hypotheses {says}" in _card(tmp_path / "out")[1]


def test_seconds_that_nobody_counted_are_not_nought(four_bits: Source, tmp_path: Path) -> None:
    """As `tlc compress` writes it: the parent's seconds are known, recovery's are not, and nothing was matched."""
    recovery = {"finetune": {"flops": 1e11, "seconds": 0.0, "steps": 5.0, "tokens": 900.0}}
    changes = {"ledger": four_bits.run["ledger"] | recovery, "entry": {"counts_seconds": False}, "match": "steps"}
    export(replace(four_bits, run=four_bits.run | changes), tmp_path / "out")
    text = _card(tmp_path / "out")[1]
    assert (
        "charged: train 40.0 s, 2e+12 FLOP; finetune seconds not counted, 1e+11 FLOP; together 2.1e+12 FLOP\n" in text
    )
    assert "matched in" not in text


def test_nothing_is_invented(four_bits: Source, tmp_path: Path) -> None:
    export(four_bits, tmp_path / "out", results=tmp_path / "none")
    header, text = _card(tmp_path / "out")
    assert "metrics" not in header
    assert "model-index" not in header
    assert f"not measured (there is no {tmp_path / 'none' / 'runs.parquet'})" in text
    assert "In this form: not measured." in text


def test_an_engine_that_was_not_run_is_not_measured(four_bits: Source, tmp_path: Path) -> None:
    row = ROW | {"size_bytes": size_bytes(four_bits.directory)}
    export(four_bits, tmp_path / "out", results=_results(tmp_path / "results", row, []))
    text = _card(tmp_path / "out")[1]
    assert "this directory's own output | not measured |" in text
    assert "In this form: not measured." in text


@pytest.mark.parametrize(
    ("run_id", "size", "missing"),
    [
        ("tiny-w32x2-s0-seconds-q4", 999, "is of a file of 1000 bytes, this one has 999"),
        ("tiny-w32x2-s7-seconds-q4", 1000, "has no row tiny-w32x2-s7-seconds-q4"),
        (None, 1000, "no row of a study's table"),
    ],
)
def test_a_row_of_another_model_is_not_taken(run_id: str | None, size: int, missing: str, tmp_path: Path) -> None:
    results = _results(tmp_path / "results", ROW | {"size_bytes": 1000}, [])
    found = read_measurements(results, run_id, engine="ctranslate2-int8", size_bytes=size)
    assert found.row is None
    assert missing in str(found.missing)


def test_the_table_s_own_latency_serves_where_engines_csv_is_not_there(tmp_path: Path) -> None:
    times = {"latency_threads": 1, "latency_batch": 1, "latency_ms_p50": 2.0, "latency_ms_p95": 3.0}
    row = ROW | {"size_bytes": 1000, "latency_engine": "ctranslate2-float32"} | times
    results = _results(tmp_path / "results", row, [])
    found = read_measurements(results, ROW["run_id"], engine="ctranslate2-float32", size_bytes=1000)
    assert found.timings == ({"threads": 1, "batch": 1, "latency_ms_p50": 2.0, "latency_ms_p95": 3.0},)
    assert read_measurements(results, ROW["run_id"], engine="torch", size_bytes=1000).timings == ()
