"""Measuring one run's models: losses of every sentence, sizes, inference FLOPs, and what each cost. Never charged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.budget import Ledger
from pipeline.compression.formats import load_model, size_bytes, stored_numbers
from pipeline.compression.sizes import compression_ratio, parameter_shapes, size_bytes_theory
from pipeline.corpora.prepared import PreparedCorpus, Split
from pipeline.evaluation.losses import sentence_losses
from pipeline.files import atomic_path, read_json, write_json
from pipeline.flops import inference_flops_per_token, parameters_by_group
from pipeline.models.checkpoint import read_run
from pipeline.progress import progress
from pipeline.size import SizeSpec


def model_paths(entry: dict[str, Any], *, key: str, artifacts: Path) -> dict[str, Path]:
    """Return {run_id: where its model directory is} for every match and recipe of a pretrained run."""
    paths = {}
    for match in entry["matches"]:
        for recipe in entry["recipes"]:
            if recipe == "fp32":
                path = artifacts / "pretrain" / key / match
            else:
                path = artifacts / ("prune" if recipe.startswith("p") else "quantize") / key / f"{match}-{recipe}"
            paths[f"{key}-{match}-{recipe}"] = path
    return paths


def mean_lengths(split: Split) -> tuple[float, float]:
    """Return the mean source and target tokens of a split's sentences, </s> counted."""
    return float(split.source.lengths.mean()) + 1, float(split.target.lengths.mean()) + 1


def _cost_columns(run: dict[str, Any], params_non_embedding: int) -> dict[str, Any]:
    ledger = Ledger.from_dict(run["ledger"])
    total = ledger.total
    tokens = ledger.of("train").tokens + ledger.of("finetune").tokens
    return {
        "train_flops": ledger.of("train").flops,
        "train_seconds": ledger.of("train").seconds,
        "teacher_flops": ledger.of("teacher").flops,
        "teacher_seconds": ledger.of("teacher").seconds,
        "finetune_flops": ledger.of("finetune").flops,
        "finetune_seconds": ledger.of("finetune").seconds,
        "decode_flops": ledger.of("decode").flops,
        "decode_seconds": ledger.of("decode").seconds,
        "total_flops": total.flops,
        "total_seconds": total.seconds,
        "train_tokens": tokens,
        "tokens_per_param": tokens / params_non_embedding,
    }


def _row(run: dict[str, Any], directory: Path, lengths: tuple[float, float]) -> tuple[dict[str, Any], Any]:
    """Return the columns of one model known before its losses, and the loaded model."""
    model = load_model(directory)
    size = SizeSpec(**{name: run["size"][name] for name in ("d_model", "num_layers", "num_heads", "ffn_dim")})
    vocab_size = run["size"]["vocab_size"]
    groups = parameters_by_group(size, vocab_size=vocab_size)
    total = sum(groups.values())
    written, shapes = size_bytes(directory), parameter_shapes(model)
    bits, kept = stored_numbers(directory)
    source_length, target_length = lengths
    row = {
        **{
            name: run[name] for name in ("study", "task", "run_id", "parent_id", "config_id", "match", "seed", "budget")
        },
        **{name: run[name] for name in ("method", "recipe", "bits", "sparsity", "status")},
        "size": run["size_key"],
        "d_model": size.d_model,
        "num_layers": size.num_layers,
        "num_heads": size.num_heads,
        "ffn_dim": size.ffn_dim,
        "params_total": total,
        "params_embedding": groups["embedding"],
        "params_non_embedding": total - groups["embedding"],
        **_cost_columns(run, total - groups["embedding"]),
        "size_bytes": written,
        "size_bytes_theory": size_bytes_theory(shapes, bits=bits, kept=kept),
        "compression_ratio": compression_ratio(shapes, written),
        "infer_flops_per_token": inference_flops_per_token(
            size,
            source_length=source_length,
            target_length=target_length,
            vocab_size=vocab_size,
            density=1 - (run["sparsity"] or 0),
        ),
    }
    if "teacher_training" in run:
        teacher = Ledger.from_dict(run["teacher_training"]).total
        row |= {"teacher_training_flops": teacher.flops, "teacher_training_seconds": teacher.seconds}
    return row, model


def measure(models: dict[str, Path], *, statuses: dict[str, str], corpus: PreparedCorpus, out: Path) -> str:
    """Write `out`: rows.json and sentences.npz for {run_id: model directory}; return a one-line summary.

    A model whose directory is absent gets a row of its run_id and its status in `statuses` (``diverged``), and nothing
    measured. sentences.npz holds ``<run_id>/valid_nll``, ``/valid_tokens``, ``/test_nll``, ``/test_tokens``.
    """
    splits = {name: corpus.split(name) for name in ("valid", "test")}
    lengths = mean_lengths(splits["test"])
    rows: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for run_id, directory in progress(models.items(), desc="evaluate", unit="model"):
        if not directory.exists():
            rows.append({"run_id": run_id, "status": statuses[run_id]})
            continue
        row, model = _row(read_run(directory), directory, lengths)
        for name, split in splits.items():
            nll, tokens = sentence_losses(model, split)
            row[f"{name}_loss"] = float(nll.sum() / tokens.sum())
            arrays[f"{run_id}/{name}_nll"], arrays[f"{run_id}/{name}_tokens"] = nll, tokens
        if not np.isfinite([row["valid_loss"], row["test_loss"]]).all():
            row |= {"status": "diverged", "valid_loss": None, "test_loss": None}
        rows.append(row)
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        write_json(temporary / "rows.json", rows)
        np.savez(temporary / "sentences.npz", **arrays)
    good = [row for row in rows if row["status"] == "ok"]
    return f"{out.name}: measured {len(good)} of {len(rows)} models"


def statuses_of(models: dict[str, Path]) -> dict[str, str]:
    """Return, for every absent model, what its stage's metrics.json says became of it: ``diverged`` or ``failed``."""
    result = {}
    for run_id, directory in models.items():
        if directory.exists():
            result[run_id] = "ok"
            continue
        metrics = read_json(directory.parent / "metrics.json")
        outcomes = {record["status"] for record in metrics.values() if isinstance(record, dict)} | {
            metrics.get("status")
        }
        result[run_id] = "diverged" if "diverged" in outcomes else "failed"
    return result
