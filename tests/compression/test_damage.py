"""Damaged, truncated, foreign and missing files end in one StudyError that names the path."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers.models.m2m_100 import M2M100ForConditionalGeneration

from pipeline.compression.activation_rounding import range_of
from pipeline.compression.encoding import KINDS
from pipeline.compression.formats import COMPRESSED, load_compressed, load_model, save_compressed, size_bytes
from pipeline.errors import StudyError
from tests.candidates import compressed

BuildModel = Callable[[str], M2M100ForConditionalGeneration]
Record = dict[str, Any]


@pytest.fixture
def saved(build_model: BuildModel, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    original = tmp_path_factory.getbasetemp() / "sound-model"
    if not original.exists():
        candidate = compressed(build_model("deep"), bits=3, sparsity=0.5, granularity="group", group_size=6)
        candidate.activations = {"model.encoder.layers.0.fc1": range_of(-1, 1, 8)}
        save_compressed(candidate, original)
        load_compressed(original)
    return Path(shutil.copytree(original, tmp_path / "saved"))


def fails(directory: Path, match: str) -> None:
    with pytest.raises(StudyError, match=match) as caught:
        load_model(directory)
    message = str(caught.value)
    assert str(directory) in message
    assert "\n" not in message
    assert "rerun" in message or "run the stage" in message


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 0.3, 0.999])
def test_truncated(saved: Path, keep: float) -> None:
    path = saved / COMPRESSED
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    fails(saved, "damaged")


def test_one_flipped_bit_anywhere(saved: Path) -> None:
    path = saved / COMPRESSED
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for place in [*range(0, header, 3), *np.random.default_rng(0).integers(header, len(data), size=50), len(data) - 1]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        fails(saved, "damaged|architecture|version")


def test_bytes_after_the_end(saved: Path) -> None:
    path = saved / COMPRESSED
    path.write_bytes(path.read_bytes() + b"\0" * 8)
    fails(saved, "damaged")


def rewrite(directory: Path, change: Callable[[Record, Record], None]) -> None:
    path = directory / COMPRESSED
    with safe_open(path, framework="np") as file:
        record = json.loads(file.metadata()["compression"])
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    change(record, tensors)
    save_file(tensors, path, metadata={"compression": json.dumps(record)})


def test_unknown_version(saved: Path) -> None:
    rewrite(saved, lambda record, tensors: record.update(version=1))
    fails(saved, "format version 1")


WORDS: list[tuple[object, str]] = [
    ({"words": ["9r"], "order": "a33"}, "'9r' is no encoding"),
    ({"words": ["3g0m"], "order": "a33"}, "'3g0m' is no encoding"),
    ({"words": ["3"], "order": "a33"}, "'3' is no encoding"),
    ({"words": ["3g6m"], "order": "a32"}, "32 words, not 33"),
    ({"words": ["3g6m"], "order": "ab32"}, "names words that are not there"),
    ({"words": [3], "order": "a33"}, "names words that are not there"),
    ({"words": ["3g6m"], "order": "33"}, "is no order"),
    ({"words": "3g6m", "order": "a33"}, "no words"),
    ({"words": ["4g6m"], "order": "a33"}, "codes are left, not"),
    ({"words": ["3g9m"], "order": "a33"}, "minimum are left over"),
    ({"words": ["3rm"], "order": "a33"}, "minimum are left over"),
    ({"words": ["3g6"], "order": "a33"}, "consists of"),
    (None, "no words"),
]


@pytest.mark.parametrize(("words", "match"), WORDS)
def test_wrong_words_in_the_metadata(saved: Path, monkeypatch: pytest.MonkeyPatch, words: object, match: str) -> None:
    rewrite(saved, lambda record, tensors: record.update(matrices=words))
    fails(saved, "its checksum is wrong")
    monkeypatch.setattr("pipeline.compression.formats._data_sum", lambda record, tensors: record["data"])
    fails(saved, f"damaged.*{match}")


def test_no_metadata(saved: Path) -> None:
    save_file({"a": np.zeros(3)}, saved / COMPRESSED)
    fails(saved, "damaged.*metadata")


def _more_kept(tensors: Record) -> None:
    tensors["mask"][:5] = 255


def _drop(tensors: Record, kind: str) -> None:
    del tensors[kind]


def _resize(tensors: Record, kind: str, by: int) -> None:
    tensors[kind] = np.resize(tensors[kind], tensors[kind].size + by)


CHANGES: dict[str, tuple[Callable[[Record], None], str]] = {
    "mask of other codes": (_more_kept, "damaged"),
    "foreign kind": (lambda tensors: tensors.update(a=np.zeros(3)), "consists of a, codes"),
    "matrix": (lambda tensors: tensors.update(values=tensors["values"].reshape(-1, 1)), "values is float32 of shape"),
    "wider rows": (lambda tensors: tensors.update(scale=tensors["scale"].astype(np.float32)), "scale is float32"),
    **{f"no {kind}": (partial(_drop, kind=kind), "damaged") for kind in KINDS},
    **{f"less {kind}": (partial(_resize, kind=kind, by=-1), f"{kind} are left, not") for kind in KINDS},
    **{f"more {kind}": (partial(_resize, kind=kind, by=1), f"its tensors: 1 {kind} are left over") for kind in KINDS},
}


@pytest.mark.parametrize("change", CHANGES)
def test_tensors_that_do_not_fit_together(saved: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    # The checksum is put aside: what it would find must be found without it.
    monkeypatch.setattr("pipeline.compression.formats._data_sum", lambda record, tensors: "same")
    apply, match = CHANGES[change]

    def changed(record: Record, tensors: Record) -> None:
        record["data"] = "same"
        apply(tensors)

    rewrite(saved, changed)
    fails(saved, match)


def test_another_architecture(saved: Path, build_model: BuildModel) -> None:
    build_model("wide").config.save_pretrained(saved)
    fails(saved, "architecture")


@pytest.mark.parametrize(("key", "value"), [("encoder_ffn_dim", 48), ("vocab_size", 62), ("decoder_layers", 1)])
def test_one_wrong_number_in_the_configuration(saved: Path, key: str, value: int) -> None:
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    fails(saved, "architecture")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "not valid JSON"),
        ("[]", "model type None"),
        ('{"model_type": "bert"}', "another architecture, model type 'bert'"),
    ],
)
def test_damaged_configuration(saved: Path, text: str, match: str) -> None:
    (saved / "config.json").write_text(text)
    fails(saved, match)


@pytest.mark.parametrize("value", [3, "many", None])
def test_a_configuration_of_no_model(saved: Path, value: object) -> None:
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"encoder_attention_heads": value}))
    fails(saved, "describes no model")


def test_damaged_generation_settings(saved: Path) -> None:
    (saved / "generation_config.json").write_text("{")
    fails(saved, "generation_config.json: damaged")


def test_missing_files(saved: Path, tmp_path: Path) -> None:
    (saved / "config.json").unlink()
    fails(saved, "config.json: no such file")
    (saved / COMPRESSED).unlink()
    fails(saved, "no model.safetensors, weights.safetensors or quanto.safetensors")
    with pytest.raises(StudyError, match="no such file"):
        load_compressed(saved)
    with pytest.raises(StudyError):
        size_bytes(tmp_path / "nowhere")


def test_dense_and_compressed_in_one_directory(saved: Path, build_model: BuildModel) -> None:
    build_model("deep").save_pretrained(saved)
    fails(saved, "both model.safetensors and weights.safetensors")
