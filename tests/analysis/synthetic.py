"""A study's artifacts without a study: models whose losses are a formula, and sentences to match."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.scores import corpus_scores
from pipeline.flops import parameters_by_group
from pipeline.selection import configurations_to_translate, parse_run_id, rows_frame
from pipeline.size import SizeSpec

VOCABULARY = 4000
BUDGETS = {"seconds": "300 s", "flops": "1.5e13 flop"}
SPEED = {"w32x2": 17, "w64x2": 32, "w128x2": 67, "w256x2": 124, "w128x4": 60}
DENSE = {
    "seconds": {"w32x2": 3.1, "w64x2": 2.3, "w128x2": 1.8, "w256x2": 1.85, "w128x4": 1.95},
    "flops": {"w32x2": 2.9, "w64x2": 2.1, "w128x2": 2.0, "w256x2": 2.6, "w128x4": 2.3},
}
DAMAGE = {
    "fp32": 0.0, "q8": 0.001, "q6": 0.004, "q4": 0.04, "q3": 0.25,
    "p50": 0.06, "p70": 0.2, "p90": 0.8, "p50q8": 0.062, "p50q4": 0.11,
}  # fmt: skip
WORDS = [f"{a}{b}" for a in ("ba", "de", "fi", "go", "lu", "me", "no", "ra") for b in ("n", "s", "t", "k", "l", "")]
SENTENCES = 150

Truth = Callable[[str, str, str], float]
"""(match, size, recipe) -> expected loss a token."""


def shape(size: str) -> SizeSpec:
    width, layers = size[1:].split("x")
    return SizeSpec(d_model=int(width), num_layers=int(layers))


def loss_of(match: str, size: str, recipe: str) -> float:
    """Return the loss of the default world: wider models take less harm."""
    return DENSE[match][size] + DAMAGE[recipe] * (64 / shape(size).d_model) ** 0.3


def compression(recipe: str) -> tuple[int | None, float | None]:
    pruned, _, bits = recipe.removeprefix("p").partition("q") if recipe[0] == "p" else ("", "", recipe[1:])
    return (int(bits) if bits and recipe != "fp32" else None, int(pruned) / 100 if pruned else None)


def file_bytes(size: str, recipe: str) -> int:
    groups = parameters_by_group(shape(size), vocab_size=VOCABULARY)
    rows, kept = sum(groups.values()), 1.0
    bits, sparsity = compression(recipe)
    if recipe == "fp32":
        return 4 * rows + 20_000
    kept -= sparsity or 0
    return round(rows * (kept * (bits or 32) + (1 if sparsity else 0)) / 8 + 20_000)


def report_entry(**changes: Any) -> dict[str, Any]:
    """Return params.yaml's report entry of the synthetic study."""
    sizes = changes.pop("sizes", list(SPEED))
    seeds = changes.pop("seeds", 3)
    students = [
        f"toy-{size}-{method}-s{seed}" for size in sizes[:2] for method in ("word", "sequence") for seed in range(2)
    ]
    return {
        "study": "toy",
        "task": "translation",
        "quality_name": "BLEU",
        "runs": [f"toy-{size}-s{seed}" for size in sizes for seed in range(seeds)],
        "students": students,
        "matches": ["seconds", "flops"],
        "recipes": list(DAMAGE),
        "limits": 8,
        "resamples": 200,
        "min_bleu": 0.3,
        "min_loss_percent": 1.0,
        "budgets": BUDGETS,
        "recovery_fraction": 0.15,
        "confounds": ["The best learning rate tried at d_model 256 lay at the edge of its grid."],
        "plain_of_student": {key: key.replace("-word", "").replace("-sequence", "") for key in students},
    } | changes  # fmt: skip


def row_of(run_id: str, loss: float) -> dict[str, Any]:
    """Return a model's row as the evaluate stage writes it."""
    identity = parse_run_id(run_id)
    size, match, method = identity["size"], identity["match"], identity["method"]
    groups = parameters_by_group(shape(size), vocab_size=VOCABULARY)
    total, speed = sum(groups.values()), SPEED[size] * 1e9
    recipe = "fp32" if method == "distill" else identity["recipe"]
    bits, sparsity = compression(recipe)
    seconds = 299.0 if match == "seconds" else 1.49e13 / speed
    finetune = 0.15 * seconds if sparsity else 0.0
    teacher = 0.2 * seconds if identity["recipe"] == "word" else 0.0
    decode = 60.0 if identity["recipe"] == "sequence" else 0.0
    train = seconds - finetune - teacher - decode
    written = file_bytes(size, recipe)
    row = {
        **{
            name: identity[name]
            for name in ("study", "run_id", "size", "seed", "match", "recipe", "method", "config_id")
        },
        **shape(size).model_dump(include={"d_model", "num_layers", "num_heads", "ffn_dim"}),
        "task": "translation",
        "parent_id": None if method == "none" else f"toy-{size}-s{identity['seed']}-{match}-fp32",
        "budget": BUDGETS[match],
        "params_total": total,
        "params_embedding": groups["embedding"],
        "params_non_embedding": total - groups["embedding"],
        "total_seconds": seconds,
        "total_flops": seconds * speed,
        "train_tokens": seconds * 20_000,
        "tokens_per_param": seconds * 20_000 / (total - groups["embedding"]),
        "bits": bits,
        "sparsity": sparsity,
        "size_bytes": written,
        "size_bytes_theory": written - 20_000,
        "compression_ratio": file_bytes(size, "fp32") / written,
        "infer_flops_per_token": 2.0 * total,
        "valid_loss": loss,
        "test_loss": loss,
        "status": "ok",
    }
    for purpose, spent in (("train", train), ("teacher", teacher), ("finetune", finetune), ("decode", decode)):
        row |= {f"{purpose}_seconds": spent, f"{purpose}_flops": spent * speed}
    if method == "distill":
        row |= {"teacher_training_seconds": 299.0, "teacher_training_flops": 299.0 * 67e9}
    return row


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def corrupted(reference: str, loss: float, rng: np.random.Generator) -> str:
    """Return the reference with words replaced, more of them the higher the loss."""
    chance = min(0.9, max(0.02, (loss - 1) * 0.22))
    words = reference.split()
    return " ".join(str(rng.choice(WORDS)) if rng.random() < chance else word for word in words)


def write_curves(folder: Path, size: str, seed: int) -> None:
    lines = ["phase,step,train_seconds,train_flops,train_tokens,learning_rate,train_loss,valid_loss"]
    speed = SPEED[size] * 1e9
    end = DENSE["seconds"][size] + 0.01 * seed

    def line(phase: str, seconds: float, loss: float) -> str:
        return f"{phase},{round(seconds * 5)},{seconds},{seconds * speed},{seconds * 20000},0.001,{loss + 0.1},{loss}"

    for i in range(1, 9):
        seconds = 240 * i / 8
        lines.append(line("trunk", seconds, end + 0.25 + 2.2 * np.exp(-3 * seconds / 240)))
    lines += [line("seconds-early", 254, end + 0.05), line("seconds", 299, end)]
    flops_seconds = 1.49e13 / speed
    lines += [
        line("flops", flops_seconds, DENSE["flops"][size]),
        line("flops-early", 0.85 * flops_seconds, DENSE["flops"][size] + 0.06),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "curve.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_artifacts(root: Path, entry: dict[str, Any], *, truth: Truth = loss_of, seed_noise: float = 0.01) -> Path:
    """Write artifacts/<study> under `root` for a report entry and return it; the same arguments give the same files."""
    rng = np.random.default_rng(0)
    references = [" ".join(rng.choice(WORDS, size=rng.integers(4, 12))) for _ in range(SENTENCES)]
    components = np.sort(rng.integers(0, SENTENCES * 2 // 3, size=SENTENCES))
    folder = root / "artifacts" / entry["study"]
    write_json(folder / "corpus" / "test-references.json", [[line] for line in references])
    np.save(folder / "corpus" / "test-components.npy", components)
    card = {
        "source_lang": "en",
        "target_lang": "fr",
        "license": "CC BY 2.0 FR",
        "credit": "Contributors of a made-up corpus.",
    }
    write_json(folder / "corpus" / "card.json", card)
    lengths = np.array([len(line.split()) + 1 for line in references])
    difficulty = rng.normal(0, 0.3, size=SENTENCES)

    everything: list[dict[str, Any]] = []
    for key in (*entry["runs"], *entry["students"]):
        student = key in entry["students"]
        names = (
            [f"{key}-seconds-fp32"]
            if student
            else [f"{key}-{m}-{r}" for m in entry["matches"] for r in entry["recipes"]]
        )
        shared = rng.normal(0, seed_noise)
        rows, arrays = [], {}
        for run_id in names:
            identity = parse_run_id(run_id)
            recipe = "fp32" if student else identity["recipe"]
            gain = {"word": 0.08, "sequence": 0.03}.get(identity["recipe"], 0.0)
            expected = (
                truth(identity["match"], identity["size"], recipe) - gain + shared + rng.normal(0, seed_noise / 5)
            )
            row = row_of(run_id, expected)
            for split in ("valid", "test"):
                nll = (expected + difficulty + rng.normal(0, 0.02, size=SENTENCES)) * lengths
                arrays |= {f"{run_id}/{split}_nll": nll, f"{run_id}/{split}_tokens": lengths}
                row[f"{split}_loss"] = float(nll.sum() / lengths.sum())
            rows.append(row)
        write_json(folder / "evaluate" / key / "rows.json", rows)
        np.savez(folder / "evaluate" / key / "sentences.npz", **arrays)
        everything += rows
        if not student:
            identity = parse_run_id(f"{key}-seconds-fp32")
            write_curves(folder / "pretrain" / key, identity["size"], identity["seed"])
            write_json(folder / "pretrain" / key / "metrics.json", {})

    by_name = {row["run_id"]: row for row in everything}
    records = {}
    for run_id in configurations_to_translate(rows_frame(everything), entry):
        words = np.random.default_rng(1)  # the same dice for every model, so that BLEU follows the loss
        hypotheses = [corrupted(line, by_name[run_id]["test_loss"], words) for line in references]
        path = folder / "translate" / "test" / f"{run_id}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in hypotheses), encoding="utf-8")
        scores = corpus_scores(hypotheses, [[line] for line in references])
        records[run_id] = {
            "quality": scores["bleu"],
            "quality_low": scores["bleu"] - 2,
            "quality_high": scores["bleu"] + 2,
            "signature": scores["bleu_signature"],
            "chrf": scores["chrf"],
            "chrf_signature": scores["chrf_signature"],
        }
    write_json(folder / "translate" / "test" / "translations.json", records)
    timed = {
        f"{key}-seconds-fp32": {
            "latency_engine": "ctranslate2",
            "latency_threads": 1,
            "latency_batch": 1,
            "latency_ms_p50": 2 + shape(parse_run_id(f"{key}-seconds-fp32")["size"]).d_model / 16,
            "latency_ms_p95": 3 + shape(parse_run_id(f"{key}-seconds-fp32")["size"]).d_model / 12,
        }
        for key in entry["runs"]
        if key.endswith("s0")
    }
    write_json(folder / "time" / "latency.json", timed)
    return folder
