"""Measuring one run's models: losses of every sentence, sizes, inference FLOPs, and what each cost. Never charged."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.budget import Ledger
from pipeline.compression.formats import load_model, size_bytes, stored_numbers, weights_file
from pipeline.compression.sizes import compression_ratio, entropy_coded_bytes, parameter_shapes, size_bytes_theory
from pipeline.corpora.encoder_splits import LabelledSplit
from pipeline.corpora.prepared import AnySplit, PreparedCorpus, Split
from pipeline.evaluation.accuracy import score_classes
from pipeline.evaluation.classification import class_logits, class_losses, predicted
from pipeline.evaluation.losses import sentence_losses
from pipeline.expected import Expected
from pipeline.files import atomic_path, read_json, write_json
from pipeline.flops import inference_flops_per_token, matrix_weights, parameters_by_group, parameters_total
from pipeline.models.architectures import class_of
from pipeline.models.building import config_of
from pipeline.models.checkpoint import read_run
from pipeline.progress import progress
from pipeline.size import SizeSpec

ENCODING = (
    "bits",
    "embedding_bits",
    "granularity",
    "group_size",
    "activation_bits",
    "quantized_tensors",
    "weight_error",
)
"""What run.json and the row say about how the weights are written, beside their size."""


def mean_lengths(split: AnySplit) -> tuple[float, float]:
    """Return the mean source and target tokens of a split's sentences, special tokens counted; an encoder has a source alone."""
    if not isinstance(split, Split):
        length = float(split.padded_lengths.mean())
        return length, length
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
        "calibrate_flops": ledger.of("calibrate").flops,
        "calibrate_seconds": ledger.of("calibrate").seconds,
        "decode_flops": ledger.of("decode").flops,
        "decode_seconds": ledger.of("decode").seconds,
        "total_flops": total.flops,
        "total_seconds": total.seconds,
        "train_tokens": tokens,
        "tokens_per_param": tokens / params_non_embedding,
    }


def _dense_shapes(size: SizeSpec, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a size's parameters without allocating any."""
    config = config_of(size, vocab_size=vocab_size)
    with torch.device("meta"):
        return parameter_shapes(class_of(config)(config))


def _row(run: dict[str, Any], directory: Path, lengths: tuple[float, float]) -> tuple[dict[str, Any], Any]:
    """Return the columns of one model known before its losses, and the loaded model.

    `params_total` and the ratio's dense bytes are those of the size that was trained; the shape, `params_kept` and the
    inference FLOPs are those of what is left of it.
    """
    model = load_model(directory)
    size, trained = (SizeSpec.of_record(run.get(name, run["size"])) for name in ("size", "trained_size"))
    vocab_size = run["size"]["vocab_size"]
    groups = parameters_by_group(trained, vocab_size=vocab_size)
    total = sum(groups.values())
    written, shapes = size_bytes(directory), parameter_shapes(model)
    bits, kept = stored_numbers(directory)
    pruned = sum(math.prod(shapes[name]) - count for name, count in kept.items())
    source_length, target_length = lengths
    row = {
        **{
            name: run[name] for name in ("study", "task", "run_id", "parent_id", "config_id", "match", "seed", "budget")
        },
        **{name: run.get(name) for name in ("method", "recipe", "sparsity", "status", *ENCODING)},
        "size": run["size_key"],
        "d_model": size.d_model,
        "num_layers": size.num_layers,
        "num_heads": size.num_heads,
        "ffn_dim": size.ffn_dim,
        "params_total": total,
        "params_embedding": groups["embedding"],
        "params_non_embedding": total - groups["embedding"],
        "params_kept": parameters_total(size, vocab_size=vocab_size) - pruned,
        **_cost_columns(run, total - groups["embedding"]),
        "size_bytes": written,
        "size_zstd_bytes": entropy_coded_bytes(weights_file(directory)),
        "size_bytes_theory": size_bytes_theory(shapes, bits=bits, kept=kept),
        "compression_ratio": compression_ratio(_dense_shapes(trained, vocab_size), written),
        "infer_flops_per_token": inference_flops_per_token(
            size,
            source_length=source_length,
            target_length=target_length,
            vocab_size=vocab_size,
            density=1 - pruned / matrix_weights(size, vocab_size=vocab_size),
        ),
    }
    if "teacher_training" in run:
        teacher = Ledger.from_dict(run["teacher_training"]).total
        row |= {"teacher_training_flops": teacher.flops, "teacher_training_seconds": teacher.seconds}
    return row, model


def _measured(model: Any, split: AnySplit, *, resamples: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a model's answers to a split are worth: columns of its row, arrays of its sentences.

    With `resamples` labelled sentences are scored too.
    """
    if not isinstance(split, LabelledSplit):
        nll, tokens = sentence_losses(model, split)
        return {"loss": float(nll.sum() / tokens.sum())}, {"nll": nll, "tokens": tokens}
    logits = class_logits(model, split)
    nll = class_losses(logits, split.labels)
    columns: dict[str, Any] = {"loss": float(nll.mean())}
    arrays: dict[str, Any] = {"nll": nll, "tokens": np.ones(len(split), dtype=np.int64)}
    if resamples is not None:
        arrays["correct"] = predicted(logits) == split.labels
        columns |= score_classes(arrays["correct"], split.components(), resamples=resamples)
    return columns, arrays


def measure(
    models: Iterable[Expected], *, artifacts: Path, corpus: PreparedCorpus, out: Path, resamples: int | None = None
) -> str:
    """Write `out`: rows.json and sentences.npz for models under a study's `artifacts`; return a one-line summary.

    A model whose directory is absent gets a row of its run_id, method and status (``diverged``, ``failed``), and nothing
    measured. sentences.npz holds ``<run_id>/valid_nll``, ``/valid_tokens``, ``/test_nll``, ``/test_tokens``. Classifiers
    have their accuracy on the test set too, with an interval of `resamples`, and ``/test_correct``.
    """
    splits = {name: corpus.split(name) for name in ("valid", "test")}
    lengths = mean_lengths(splits["test"])
    rows: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for expected in progress(list(models), desc="evaluate", unit="model"):
        run_id, directory = expected.run_id, artifacts / expected.folder
        if not directory.exists():
            rows.append({"run_id": run_id, "method": expected.method, "status": status_of(directory)})
            continue
        row, model = _row(read_run(directory), directory, lengths)
        for name, split in splits.items():
            columns, found = _measured(model, split, resamples=resamples if name == "test" else None)
            row[f"{name}_loss"] = columns.pop("loss")
            row |= columns
            arrays |= {f"{run_id}/{name}_{kind}": array for kind, array in found.items()}
        if not np.isfinite([row["valid_loss"], row["test_loss"]]).all():
            row |= {"status": "diverged", "valid_loss": None, "test_loss": None}
            row |= {name: None for name in ("quality", "quality_low", "quality_high") if name in row}
        rows.append(row)
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        write_json(temporary / "rows.json", rows)
        np.savez(temporary / "sentences.npz", **arrays)
    good = [row for row in rows if row["status"] == "ok"]
    return f"{out.name}: measured {len(good)} of {len(rows)} models"


def status_of(directory: Path) -> str:
    """Return what the metrics.json beside an absent model says became of it: ``diverged``, or ``failed``."""
    record = read_json(directory.parent / "metrics.json").get(directory.name, {})
    return "diverged" if record.get("status") == "diverged" else "failed"
