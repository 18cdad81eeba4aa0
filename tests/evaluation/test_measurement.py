"""Rows of measured models: every expected model has one, and the file on disk is what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.compression.families import compress
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.evaluation.losses import validation_loss
from pipeline.evaluation.measurement import measure
from pipeline.evaluation.translation import translate_test
from pipeline.expected import models_of_run
from pipeline.files import read_json, write_json
from pipeline.flops import matrix_weights
from pipeline.size import SizeSpec
from tests.runs import COMMON, FOUR_BITS, KEY, MASKED, compression, pretrained

RECIPES = {
    "q8": ("rtn", [FOUR_BITS | {"bits": 8}]),
    "ffn50": ("parts", [{"method": "ffn", "fraction": 0.5}]),
    "p50": ("parts", [{"method": "magnitude", "sparsity": 0.5}]),
    "p90": ("lost", [MASKED | {"sparsity": 0.9}]),
}
ENTRY = {
    "matches": ["seconds"],
    "recipes": {
        name: {"family": family, "method": "x", "sizes": ["w16x1"], "matches": ["seconds"], "seeds": None}
        for name, (family, _) in RECIPES.items()
    },
}


@pytest.fixture(scope="module")
def artifacts(corpus: PreparedCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained run, quantized, pruned in two ways, and lost in a third."""
    folder = tmp_path_factory.mktemp("artifacts")
    parent = pretrained(corpus, folder)
    for family in ("rtn", "parts"):
        entry = compression({name: steps for name, (its, steps) in RECIPES.items() if its == family})
        out, work = folder / "compressed" / KEY / family, folder / "work"
        compress(entry, key=KEY, parent=parent, corpus=corpus, out=out, work=work, validate=validation_loss(corpus))
    write_json(folder / "compressed" / KEY / "lost" / "metrics.json", {"seconds-p90": {"status": "diverged"}})
    return folder


@pytest.fixture(scope="module")
def measured(corpus: PreparedCorpus, artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was measured of all its models."""
    out = tmp_path_factory.mktemp("measured") / "out"
    measure(models_of_run(ENTRY, KEY), artifacts=artifacts, corpus=corpus, out=out)
    return out


def test_what_was_cut_away_shows_in_the_row_and_the_trained_size_stays(measured: Path, corpus: PreparedCorpus) -> None:
    rows = {row["run_id"]: row for row in read_json(measured / "rows.json")}
    dense, masked, narrow = (rows[f"{KEY}-seconds-{recipe}"] for recipe in ("fp32", "p50", "ffn50"))
    matrices = matrix_weights(SizeSpec.of_record(COMMON), vocab_size=corpus.vocab_size)
    assert dense["params_kept"] == dense["params_total"] == masked["params_total"] == narrow["params_total"]
    assert dense["params_kept"] - masked["params_kept"] == pytest.approx(matrices / 2, rel=1e-3)
    assert dense["params_kept"] - narrow["params_kept"] == 2 * (2 * 16 + 1) * 32
    assert (narrow["ffn_dim"], masked["ffn_dim"], narrow["size"]) == (32, 64, "w16x1")
    assert masked["infer_flops_per_token"] < dense["infer_flops_per_token"] > narrow["infer_flops_per_token"]
    assert dense["size_bytes"] > narrow["size_bytes"] > masked["size_bytes"]
    assert narrow["compression_ratio"] == pytest.approx(dense["size_bytes"] / narrow["size_bytes"], rel=1e-3)


def test_every_model_of_the_run_has_a_row(measured: Path, corpus: PreparedCorpus, artifacts: Path) -> None:
    rows = {row["run_id"]: row for row in read_json(measured / "rows.json")}
    assert list(rows) == [f"{KEY}-seconds-{recipe}" for recipe in ("fp32", *RECIPES)]
    assert rows[f"{KEY}-seconds-p90"] == {"run_id": f"{KEY}-seconds-p90", "method": "x", "status": "diverged"}
    dense, eight = rows[f"{KEY}-seconds-fp32"], rows[f"{KEY}-seconds-q8"]
    assert dense["compression_ratio"] == 1.0
    assert dense["size_bytes"] == (artifacts / "pretrain" / KEY / "seconds" / "model.safetensors").stat().st_size
    assert (
        eight["size_bytes"]
        == (artifacts / "compressed" / KEY / "rtn" / "seconds-q8" / "weights.safetensors").stat().st_size
    )
    assert eight["compression_ratio"] == pytest.approx(dense["size_bytes"] / eight["size_bytes"])
    assert eight["valid_loss"] == pytest.approx(dense["valid_loss"], abs=0.02)
    assert dense["total_seconds"] == pytest.approx(40)
    assert dense["params_total"] == dense["params_embedding"] + dense["params_non_embedding"]
    sentences = np.load(measured / "sentences.npz")
    nll, tokens = (sentences[f"{KEY}-seconds-q8/test_{name}"] for name in ("nll", "tokens"))
    assert eight["test_loss"] == pytest.approx(nll.sum() / tokens.sum())
    assert len(nll) == len(corpus.split("test"))


def test_translations_are_aligned_scored_and_signed(corpus: PreparedCorpus, artifacts: Path, tmp_path: Path) -> None:
    models = {f"{KEY}-seconds-q8": artifacts / "compressed" / KEY / "rtn" / "seconds-q8"}
    search = {"beam": 2, "length_penalty": 1.0, "max_length": 30}
    translate_test(models, search=search, corpus=corpus, resamples=100, out=tmp_path / "out")
    lines = (tmp_path / "out" / f"{KEY}-seconds-q8.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(corpus.split("test"))
    record = read_json(tmp_path / "out" / "translations.json")[f"{KEY}-seconds-q8"]
    assert record["quality_low"] <= record["quality"] <= record["quality_high"]
    assert "version:" in record["signature"]
    assert "version:" in record["chrf_signature"]
