"""The table of results: one row a measured model, one row for every model the study expects."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

import pandas as pd

from pipeline.errors import StudyError
from pipeline.expected import SCRATCH, expected_models
from pipeline.run_id import parse_run_id
from pipeline.selection import rows_frame
from pipeline.size import SizeSpec

STATUSES = ("ok", "diverged", "failed", "missing")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model; a quantity that was not measured is None, never 0. Units stand in names, losses are nats a token or a sentence.

    The shape (`d_model` to `ffn_dim`), `params_kept` and `infer_flops_per_token` are of what is left; `size`, the other
    parameter counts and the dense bytes that `compression_ratio` divides are of the size that was trained. `latency_engine` is
    the one that the model is deployed in, `engine_quality` the quality of that engine's own output, where `quality` is that of
    the weights as they are written. `latency_ms_p95` is None beside a p50 that too few batches were timed for.
    """

    study: str
    task: str
    run_id: str
    parent_id: str | None = None
    d_model: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    params_total: int | None = None
    params_embedding: int | None = None
    params_non_embedding: int | None = None
    params_kept: int | None = None
    seed: int
    budget: str | None = None
    train_flops: float | None = None
    train_seconds: float | None = None
    teacher_flops: float | None = None
    finetune_flops: float | None = None
    decode_flops: float | None = None
    total_flops: float | None = None
    total_seconds: float | None = None
    train_tokens: float | None = None
    tokens_per_param: float | None = None
    method: str
    recipe: str
    bits: int | None = None
    sparsity: float | None = None
    size_bytes: int | None = None
    size_bytes_theory: int | None = None
    size_zstd_bytes: int | None = None
    compression_ratio: float | None = None
    infer_flops_per_token: float | None = None
    latency_engine: str | None = None
    latency_threads: int | None = None
    latency_batch: int | None = None
    latency_ms_p50: float | None = None
    latency_ms_p95: float | None = None
    valid_loss: float | None = None
    test_loss: float | None = None
    quality: float | None = None
    quality_name: str
    quality_low: float | None = None
    quality_high: float | None = None
    signature: str | None = None
    status: str
    config_id: str
    size: str
    match: str
    chrf: float | None = None
    chrf_signature: str | None = None
    teacher_seconds: float | None = None
    finetune_seconds: float | None = None
    decode_seconds: float | None = None
    teacher_training_flops: float | None = None
    teacher_training_seconds: float | None = None
    calibrate_flops: float | None = None
    calibrate_seconds: float | None = None
    within_budget: bool | None = None
    teaching: str | None = None
    embedding_bits: int | None = None
    granularity: str | None = None
    group_size: int | None = None
    activation_bits: int | None = None
    quantized_tensors: str | None = None
    weight_error: float | None = None
    kind: str | None = None
    engine_quality: float | None = None
    engine_same_hypotheses: float | None = None
    engine_note: str | None = None


COLUMNS = tuple(field.name for field in fields(Row))
_DTYPES = {"int": "Int64", "float": "float64", "str": "object", "bool": "boolean"}


def shape_of(size: str) -> SizeSpec:
    """Return the shape that a size key such as ``w64x2`` names; StudyError on another form."""
    found = re.fullmatch(r"w(\d+)x(\d+)(?:h(\d+))?(?:f(\d+))?", size)
    if found is None:
        raise StudyError(f"{size!r} is not a size such as 'w64x2'; run `tlc plan --write`")
    width, layers, heads, ffn = (int(part or 0) for part in found.groups())
    return SizeSpec(d_model=width, num_layers=layers, num_heads=heads, ffn_dim=ffn)


def assemble(
    entry: dict[str, Any],
    rows: Iterable[dict[str, Any]],
    translations: dict[str, dict[str, Any]],
    engines: dict[str, dict[str, Any]],
) -> pd.DataFrame:
    """Return the table: the columns of `Row`, one line for every expected run_id, in their order.

    `translations` and `engines` are further columns by run_id. A model that no row tells of gets the status ``missing``;
    rows of models that the study no longer expects are left out. StudyError on an unknown column or status.
    """
    known = {str(row["run_id"]): row for row in rows}
    records = []
    for expected in expected_models(entry):
        run_id = expected.run_id
        identity = parse_run_id(run_id) | {"method": expected.method}
        # fp32 is no recipe of the study's, nor is what was never pretrained
        unlisted = {"kind": SCRATCH if identity["recipe"] == SCRATCH else "none"}
        recipe = entry["recipes"].get(identity["recipe"], unlisted)
        shape = shape_of(identity["size"]).model_dump(include={"d_model", "num_layers", "num_heads", "ffn_dim"})
        measured = known.get(run_id, {"status": "missing"})
        record = {
            "task": entry["task"],
            **identity,
            **shape,
            **measured,
            "quality_name": entry["quality_name"],
            "kind": recipe["kind"],
        }
        record |= translations.get(run_id, {}) | engines.get(run_id, {})
        unknown = sorted(set(record) - set(COLUMNS))
        if unknown or record["status"] not in STATUSES:
            fault = f"unknown column {unknown[0]!r}" if unknown else f"unknown status {record['status']!r}"
            raise StudyError(f"{run_id}: {fault} in its measurements; run the stages that measure again, then report")
        records.append(asdict(Row(**record)))
    frame = pd.DataFrame(records, columns=list(COLUMNS))
    frame["within_budget"] = rows_frame(records)["within_budget"]
    for field in fields(Row):
        dtype = _DTYPES[str(field.type).split(" ")[0]]
        frame[field.name] = frame[field.name].astype(dtype)
    return frame


def read_table(path: Any) -> pd.DataFrame:
    """Read a runs.parquet back, with the dtypes that `assemble` gives."""
    return pd.read_parquet(path)
