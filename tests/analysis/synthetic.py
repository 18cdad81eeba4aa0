"""A study's artifacts without a study: models whose losses are a formula, and sentences to match."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from pipeline.analysis.table import assemble
from pipeline.evaluation.scores import corpus_scores
from pipeline.expected import expected_models, models_of_run, models_of_student
from pipeline.flops import inference_flops_per_token, matrix_weights, parameters_by_group, parameters_total
from pipeline.recipes import Step, kind_of, method_of, shapes_along, trains
from pipeline.run_id import parse_run_id
from pipeline.selection import configurations_to_translate, rows_frame
from pipeline.size import SizeSpec
from tests.analysis.synthetic_engines import COMPARED, LOST, engine_records

VOCABULARY = 4000
BUDGETS = {"seconds": "300 s", "flops": "1.5e13 flop"}
SPEED = {"w32x2": 17, "w64x2": 32, "w128x2": 67, "w256x2": 124, "w128x4": 60}
DENSE = {
    "seconds": {"w32x2": 3.1, "w64x2": 2.3, "w128x2": 1.8, "w256x2": 1.85, "w128x4": 1.95},
    "flops": {"w32x2": 2.9, "w64x2": 2.1, "w128x2": 2.0, "w256x2": 2.6, "w128x4": 2.3},
}
_PRUNED = {"method": "magnitude", "rounds": 3}
RECIPES: dict[str, list[dict[str, Any]]] = {
    **{f"q{bits}": [{"method": "uniform", "bits": bits}] for bits in (8, 6, 4, 3)},
    **{f"p{percent}": [_PRUNED | {"sparsity": percent / 100}] for percent in (50, 70, 90)},
    **{
        f"p50q{bits}": [_PRUNED | {"sparsity": 0.5}, {"method": "uniform", "bits": bits}]
        for bits in (8, 4)
    },
    "gptq3": [{"method": "gptq", "bits": 3}],
    "qat3": [{"method": "qat", "bits": 3}],
    "q4tensor": [{"method": "uniform", "bits": 4, "granularity": "tensor"}],
    "once50": [{"method": "magnitude", "sparsity": 0.5}],
    "wanda50": [{"method": "wanda", "sparsity": 0.5}],
    "width50": [{"method": "width", "fraction": 0.5}, {"method": "ffn", "fraction": 0.5}, {"method": "finetune"}],
    "depth50kd": [{"method": "layers", "fraction": 0.5}, {"method": "distill"}],
    "early": [],
    "early4": [{"method": "uniform", "bits": 4}],
    "early3": [{"method": "uniform", "bits": 3}],
}  # fmt: skip
"""The synthetic study's recipes, as a study's YAML writes them."""
USUAL = ("q8", "q6", "q4", "q3", "p50", "p70", "p90", "p50q8", "p50q4")
DAMAGE = {
    "fp32": 0.0, "q8": 0.001, "q6": 0.004, "q4": 0.04, "q3": 0.25,
    "p50": 0.06, "p70": 0.2, "p90": 0.8, "p50q8": 0.062, "p50q4": 0.11,
    "gptq3": 0.15, "qat3": 0.08, "q4tensor": 0.09, "once50": 0.5, "wanda50": 0.3, "width50": 0.4, "depth50kd": 0.2,
    "early": 0.05, "early4": 0.08, "early3": 0.25,
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


_STEPS: TypeAdapter[list[Any]] = TypeAdapter(list[Step])


def steps_of(recipe: str) -> list[Any]:
    """Return a recipe's steps, none of fp32."""
    return _STEPS.validate_python(RECIPES.get(recipe, []))


def compression(recipe: str) -> tuple[int | None, float | None]:
    """Return bits and the masked share."""
    bits, masked = None, None
    for step in steps_of(recipe):
        bits, masked = getattr(step, "bits", bits), getattr(step, "sparsity", masked)
    return bits, masked


def shape_left(size: str, recipe: str) -> SizeSpec:
    """Return the shape that a recipe leaves."""
    return ([shape(size)] + [left for _, left, _ in shapes_along(shape(size), steps_of(recipe))])[-1]


def file_bytes(size: str, recipe: str) -> int:
    numbers = parameters_total(shape_left(size, recipe), vocab_size=VOCABULARY)
    bits, masked = compression(recipe)
    kept = 1.0 - (masked or 0)
    return round(numbers * (kept * (bits or 32) + (1 if masked else 0)) / 8 + 20_000)


def recipe_facts(recipe: str, **changes: Any) -> dict[str, Any]:
    """Return a recipe's line of the entry, as pipeline.expansion.recipe_table writes it."""
    steps = steps_of(recipe)
    return {
        "family": "posttraining" if method_of(steps) == "quantize" else "pruning",
        "method": method_of(steps),
        "kind": kind_of(steps),
        "branch": "early" if recipe.startswith("early") or any(map(trains, steps)) else "full",
        "matches": ["seconds", "flops"],
        "seeds": None,
        "curve": recipe in USUAL,
        "students": False,
    } | changes


def report_entry(**changes: Any) -> dict[str, Any]:
    """Return params.yaml's report entry of the synthetic study.

    `recipes` are names of `RECIPES`, `limited` says to which `sizes`, `matches` or `seeds` some of them apply.
    """
    sizes = changes.pop("sizes", list(SPEED))
    seeds = changes.pop("seeds", 3)
    recipes = changes.pop("recipes", USUAL)
    limited = changes.pop("limited", {})
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
        "recipes": {name: recipe_facts(name, **({"sizes": sizes} | limited.get(name, {}))) for name in recipes},
        "limits": 8,
        "resamples": 200,
        "min_quality": 0.3,
        "min_loss_percent": 1.0,
        "budgets": BUDGETS,
        "recovery_fraction": 0.15,
        "confounds": ["The best learning rate tried at d_model 256 lay at the edge of its grid."],
        "plain_of_student": {key: key.replace("-word", "").replace("-sequence", "") for key in students},
    } | changes  # fmt: skip


def row_of(run_id: str, loss: float) -> dict[str, Any]:
    """Return a model's row as the evaluate stage writes it."""
    identity = parse_run_id(run_id)
    size, match, recipe, teaching = (identity[name] for name in ("size", "match", "recipe", "teaching"))
    steps, left = steps_of(recipe), shape_left(size, recipe)
    groups = parameters_by_group(shape(size), vocab_size=VOCABULARY)
    total, speed = sum(groups.values()), SPEED[size] * 1e9
    bits, masked = compression(recipe)
    early = recipe.startswith("early") or any(map(trains, steps))
    seconds = 299.0 if match == "seconds" else 1.49e13 / speed
    if early and not any(map(trains, steps)):
        seconds *= 0.85
    finetune = 0.15 * seconds if any(map(trains, steps)) else 0.0
    teacher = 0.2 * seconds if teaching == "word" else 0.0
    decode = 60.0 if teaching == "sequence" else 0.0
    train = seconds - finetune - teacher - decode
    written = file_bytes(size, recipe)
    dense, matrices = (matrix_weights(one, vocab_size=VOCABULARY) for one in (shape(size), left))
    gone = round(matrices * (masked or 0))
    run_key = run_id.rsplit("-", 2)[0]
    method = method_of(steps)
    row = {
        **{name: identity[name] for name in ("study", "run_id", "size", "seed", "match", "recipe", "config_id")},
        "method": "distill" if teaching and recipe == "fp32" else f"distill+{method}" if teaching else method,
        **left.model_dump(include={"d_model", "num_layers", "num_heads", "ffn_dim"}),
        "task": "translation",
        "parent_id": None if recipe == "fp32" else f"{run_key}-{match}-{'early-' if early else ''}fp32",
        "budget": BUDGETS[match],
        "params_total": total,
        "params_embedding": groups["embedding"],
        "params_non_embedding": total - groups["embedding"],
        "params_kept": parameters_total(left, vocab_size=VOCABULARY) - gone,
        "total_seconds": seconds,
        "total_flops": seconds * speed,
        "train_tokens": (train + finetune) * 20_000,
        "tokens_per_param": (train + finetune) * 20_000 / (total - groups["embedding"]),
        "bits": bits,
        "embedding_bits": bits,
        "granularity": next((step.granularity for step in steps if hasattr(step, "granularity")), "row")
        if bits
        else None,
        "weight_error": None if bits is None else 2.0**-bits,
        "sparsity": 1 - (matrices - gone) / dense if "prune" in method else None,
        "size_bytes": written,
        "size_bytes_theory": written - 20_000,
        "size_zstd_bytes": round(0.9 * written),
        "compression_ratio": file_bytes(size, "fp32") / written,
        "infer_flops_per_token": inference_flops_per_token(
            left, source_length=10.0, target_length=10.0, vocab_size=VOCABULARY, density=1 - gone / matrices
        ),
        "valid_loss": loss,
        "test_loss": loss,
        "status": "ok",
    }
    for purpose, spent in (("train", train), ("teacher", teacher), ("finetune", finetune), ("decode", decode)):
        row |= {f"{purpose}_seconds": spent, f"{purpose}_flops": spent * speed}
    if teaching:
        row |= {"teacher_training_seconds": 299.0, "teacher_training_flops": 299.0 * 67e9}
    return row


def measured(
    entry: dict[str, Any],
    truth: Truth = loss_of,
    *,
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: row,
) -> pd.DataFrame:
    """Return the table of a study whose losses are exactly `truth`, each row as `change` leaves it."""
    rows = []
    for model in expected_models(entry):
        named = parse_run_id(model.run_id)
        rows.append(change(row_of(model.run_id, truth(named["match"], named["size"], named["recipe"]))))
    return assemble(entry, rows, {}, {})


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def corrupted(reference: str, loss: float, rng: np.random.Generator) -> str:
    """Return the reference with words replaced, more of them the higher the loss."""
    chance = min(0.9, max(0.02, (loss - 1) * 0.22))
    words = reference.split()
    return " ".join(str(rng.choice(WORDS)) if rng.random() < chance else word for word in words)


def curve_of(key: str, *, ends: dict[str, dict[str, float]] = DENSE) -> pd.DataFrame:
    """Return a run's points as its curve.csv has them: a trunk of 8, then the ends of its branches, at `ends` and above."""
    identity = parse_run_id(f"{key}-seconds-fp32")
    size, seed = identity["size"], identity["seed"]
    speed = SPEED[size] * 1e9
    end = ends["seconds"][size] + 0.01 * seed
    flops_seconds = 1.49e13 / speed
    points = [
        *(("trunk", 30.0 * i, end + 0.25 + 2.2 * float(np.exp(-3 * i / 8))) for i in range(1, 9)),
        ("seconds-early", 254.0, end + 0.05),
        ("seconds", 299.0, end),
        ("flops", flops_seconds, ends["flops"][size]),
        ("flops-early", 0.85 * flops_seconds, ends["flops"][size] + 0.06),
    ]
    return pd.DataFrame(
        [
            {
                "phase": phase,
                "step": round(seconds * 5),
                "train_seconds": seconds,
                "train_flops": seconds * speed,
                "train_tokens": seconds * 20_000,
                "learning_rate": 0.001,
                "train_loss": loss + 0.1,
                "valid_loss": loss,
            }
            for phase, seconds, loss in points
        ]
    )


def curves_of(entry: dict[str, Any], *, ends: dict[str, dict[str, float]] = DENSE) -> pd.DataFrame:
    """Return the frame of curves.csv of an entry's runs."""
    parts = []
    for key in entry["runs"]:
        identity = parse_run_id(f"{key}-seconds-fp32")
        parts.append(curve_of(key, ends=ends).assign(key=key, size=identity["size"], seed=identity["seed"]))
    return pd.concat(parts, ignore_index=True)


def write_curve(folder: Path, key: str, *, ends: dict[str, dict[str, float]] = DENSE) -> None:
    path = folder / "pretrain" / key / "curve.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    curve_of(key, ends=ends).to_csv(path, index=False, lineterminator="\n")


def write_engines(folder: Path, frame: pd.DataFrame, references: list[str]) -> None:
    """Write what the engines and time stages write; each engine corrupts more than the weights, with dice of its own.

    The first seeds in fp32 and in 8 bits run in every engine.
    """
    records, latencies = engine_records(frame, everywhere=("fp32", "q8"))
    losses = frame.set_index("run_id")["test_loss"]
    for record in records:
        words = np.random.default_rng(2 + COMPARED.index(record["engine"]))
        loss = losses[record["run_id"]] + LOST[record["engine"]] / 20
        hypotheses = [corrupted(line, loss, words) for line in references]
        path = folder / "engines" / f"{record['run_id']}.{record['engine']}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in hypotheses), encoding="utf-8")
        record["quality"] = corpus_scores(hypotheses, [[line] for line in references])["bleu"]
    write_json(folder / "engines" / "engines.json", records)
    write_json(folder / "time" / "latencies.json", latencies)


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
        made = models_of_student(entry, key) if student else models_of_run(entry, key)
        names = [model.run_id for model in made]
        shared = rng.normal(0, seed_noise)
        rows, arrays = [], {}
        for run_id in names:
            identity = parse_run_id(run_id)
            gain = {"word": 0.08, "sequence": 0.03}.get(identity["teaching"], 0.0)
            expected = truth(identity["match"], identity["size"], identity["recipe"]) - gain + shared
            expected += rng.normal(0, seed_noise / 5)
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
            write_curve(folder, key)
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
    write_engines(folder, assemble(entry, everything, records, {}), references)
    return folder
