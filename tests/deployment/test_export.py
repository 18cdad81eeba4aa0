"""Exported directories: what is in them, what they translate, what is refused."""

from __future__ import annotations

import errno
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.compression.activation_rounding import range_of, round_inputs
from pipeline.compression.formats import size_bytes
from pipeline.compression.methods.heads import keep_heads
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.deployment.export import export
from pipeline.deployment.product import open_product
from pipeline.deployment.sources import Source
from pipeline.engines.search import EngineRefusal
from pipeline.errors import StudyError
from pipeline.evaluation.decoding import translate
from pipeline.evaluation.translation import plain
from pipeline.size import SizeSpec
from tests.deployment.conftest import SEARCH, spread, written
from tests.processors import INT16, needs_int16


def _streamed(directory: Path, lines: list[str]) -> list[str]:
    product = open_product(directory)
    return [result.text for result in product.translate(lines, product.search)]


@pytest.mark.parametrize(
    ("form", "engine"),
    [
        (None, "ctranslate2-int8"),
        ("ctranslate2-float32", "ctranslate2-float32"),
        pytest.param(INT16, INT16, marks=needs_int16),
        ("packed", "ctranslate2-int8"),
        ("transformers", "ctranslate2-float32"),
        pytest.param("onnxruntime-float32", "onnxruntime-float32", marks=pytest.mark.slow),
        pytest.param("onnxruntime-int8", "onnxruntime-int8", marks=pytest.mark.slow),
    ],
)
def test_an_export_translates_as_the_model_does_in_the_same_engine(
    form: str | None, engine: str, four_bits: Source, corpus: PreparedCorpus, lines: list[str], tmp_path: Path
) -> None:
    exported = export(four_bits, tmp_path / "out", form=form)
    expected = translate(plain(four_bits.directory), corpus.tokenizer(), lines, engine=engine, **SEARCH)
    assert _streamed(tmp_path / "out", lines) == expected
    assert len(set(expected)) > 5
    files = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert exported.files == files
    assert {"README.md", "run.json", "tokenizer.json", "generation_config.json"} < files.keys()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["export"]["form"] == exported.form.name


def test_packed_is_the_file_that_the_row_counts(four_bits: Source, tmp_path: Path) -> None:
    export(four_bits, tmp_path / "out", form="packed")
    assert size_bytes(tmp_path / "out") == size_bytes(four_bits.directory)


def test_transformers_loads_and_generates_with_the_same_search(
    four_bits: Source, corpus: PreparedCorpus, lines: list[str], tmp_path: Path
) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    export(four_bits, tmp_path / "out", form="transformers")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    found = [
        tokenizer.decode(model.generate(**tokenizer(line, return_tensors="pt"))[0], skip_special_tokens=True).strip()
        for line in lines[:6]
    ]
    ours = translate(plain(four_bits.directory), corpus.tokenizer(), lines[:6], engine="transformers", **SEARCH)
    assert [" ".join(text.splitlines()) for text in found] == ours


def test_rounded_inputs_stay_packed(corpus: PreparedCorpus, lines: list[str], tmp_path: Path) -> None:
    candidate = spread(corpus)
    candidate.activations = {"model.decoder.layers.0.fc1": range_of(-0.5, 0.5, 2)}
    round_inputs(candidate.model, candidate.activations)
    source = written(candidate, tmp_path / "model", corpus)
    assert export(source, tmp_path / "out").form.name == "packed"
    expected = translate(plain(source.directory), corpus.tokenizer(), lines, engine="torch", **SEARCH)
    assert _streamed(tmp_path / "out", lines) == expected
    with pytest.raises(EngineRefusal, match="rounds"):
        export(source, tmp_path / "other", form="ctranslate2-int8")
    assert not (tmp_path / "other").exists()
    with pytest.raises(EngineRefusal, match="rounds"):
        open_product(source.directory, engine="ctranslate2-int8")


def test_pruned_heads_are_no_transformers_model(corpus: PreparedCorpus, lines: list[str], tmp_path: Path) -> None:
    candidate = spread(corpus)
    candidate.size = SizeSpec(d_model=32, num_layers=2, num_heads=1, head_dim=16, ffn_dim=64)
    candidate.model = keep_heads(candidate.model, candidate.size)
    source = written(candidate, tmp_path / "model", corpus)
    with pytest.raises(EngineRefusal, match="heads were pruned"):
        export(source, tmp_path / "out", form="transformers")
    assert export(source, tmp_path / "out").form.name == "ctranslate2-float32"
    expected = translate(plain(source.directory), corpus.tokenizer(), lines, **SEARCH)
    assert _streamed(tmp_path / "out", lines) == expected


def test_what_the_default_engine_refuses_is_packed_with_a_note(
    four_bits: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise EngineRefusal("CTranslate2 has no activation 'mish'")

    monkeypatch.setattr("pipeline.engines.ctranslate2_conversion.convert", refuse)
    exported = export(four_bits, tmp_path / "out")
    assert exported.form.name == "packed"
    assert exported.note is not None
    assert "mish" in exported.note
    with pytest.raises(EngineRefusal, match="mish"):
        export(four_bits, tmp_path / "other", form="ctranslate2-int8")


def test_a_directory_in_use_is_left_alone(four_bits: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(StudyError, match="not empty; give another directory, or --overwrite"):
        export(four_bits, out)
    with pytest.raises(StudyError, match="not something that `tlc export` wrote"):
        export(four_bits, out, overwrite=True)
    assert (out / "precious.txt").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="a file or a link"):
        export(four_bits, tmp_path / "file")
    with pytest.raises(StudyError, match="cannot be written"):
        export(four_bits, tmp_path / "file" / "below")


def test_an_export_can_be_replaced(four_bits: Source, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(four_bits, tmp_path / "out")
    export(four_bits, tmp_path / "out", form="packed", overwrite=True)
    assert (tmp_path / "out" / "weights.safetensors").is_file()
    assert not (tmp_path / "out" / "model.bin").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_others_put_into_an_export_is_not_lost(four_bits: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(four_bits, out)
    for name in ("translations/today.txt", "notes.txt", "empty/"):
        path = out / name
        if name.endswith("/"):
            path.mkdir()
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text("mine")
        first = out / name.partition("/")[0]
        with pytest.raises(
            StudyError, match=f"^{re.escape(str(first))}: not written by `tlc export`, and would be lost"
        ):
            export(four_bits, out, overwrite=True)
        assert path.exists()
        shutil.rmtree(first) if first.is_dir() else first.unlink()
    export(four_bits, out, overwrite=True)


@pytest.mark.parametrize("content", ["{", "[]", '{"run_id": "x"}'])
def test_a_damaged_record_is_one_line(content: str, four_bits: Source, tmp_path: Path) -> None:
    export(four_bits, tmp_path / "out")
    (tmp_path / "out" / "run.json").write_text(content)
    with pytest.raises(StudyError, match=r"not valid JSON|not something that `tlc export` wrote"):
        export(four_bits, tmp_path / "out", overwrite=True)


def test_the_current_directory_is_not_replaced(
    four_bits: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place in (".", "..", tmp_path):
        with pytest.raises(StudyError, match="the current directory is in it"):
            export(four_bits, place)
    export(four_bits, "../here/../there")
    assert (tmp_path / "there" / "README.md").is_file()


def test_what_cannot_be_read_is_not_called_unwritable(
    four_bits: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(source if reading else target))

    monkeypatch.setattr("pipeline.deployment.conversion.shutil.copyfile", refused)
    reading, weights = True, four_bits.directory / "weights.safetensors"
    with pytest.raises(StudyError, match=f"^{re.escape(str(weights))}: cannot be read"):
        export(four_bits, tmp_path / "out", form="packed")
    reading = False
    with pytest.raises(StudyError, match=f"^{re.escape(str(tmp_path / 'out'))}: cannot be written"):
        export(four_bits, tmp_path / "out", form="packed")


def test_an_export_without_a_study_says_so(four_bits: Source, tmp_path: Path) -> None:
    bare = replace(four_bits, name="bare", run={}, run_id=None, corpus=None, search=None)
    export(bare, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "BLEU and chrF: not measured (the model is no row of a study's table)." in card
    assert "not known" in card
    assert open_product(tmp_path / "out").search.beam == 4
