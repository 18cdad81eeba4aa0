"""Opening what translates: a damaged directory is one line, a search is checked, a long line is cut and told of."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.deployment.export import export
from pipeline.deployment.product import BeamSearch, Product, open_product, search_of
from pipeline.deployment.sources import Source
from pipeline.errors import StudyError
from pipeline.evaluation.decoding import translate
from pipeline.evaluation.translation import plain
from tests.deployment.conftest import SEARCH


@pytest.fixture(scope="module")
def exported(four_bits: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(four_bits, tmp_path_factory.mktemp("exported") / "out").directory


@pytest.fixture(scope="module")
def product(exported: Path) -> Product:
    return open_product(exported)


def test_text_is_tidied_as_the_corpus_was(product: Product) -> None:
    clean, untidy = product.translate(
        ["My mother saw the été.", "\tMy  mother\u2028saw the e\u0301te\u0301. "], product.search
    )
    assert clean == untidy
    assert [found.text for found in product.translate(["", " \t "], product.search)] == ["", ""]
    assert product.translate([], product.search) == []


def test_an_imported_model_s_text_keeps_its_characters(exported: Path, tmp_path: Path) -> None:
    """It learnt from text as it was; of spaces it knows one kind."""
    shutil.copytree(exported, tmp_path / "copy")
    path = tmp_path / "copy" / "run.json"
    seen: list[list[str]] = []
    encode = open_product(exported).source_tokenizer.encode_batch_fast
    for changes in ({}, {"imported": {"program": "fairseq"}}, {"study": "imported"}):
        path.write_text(json.dumps(json.loads((exported / "run.json").read_text()) | changes))
        opened = open_product(tmp_path / "copy")
        tokenizer: Any = SimpleNamespace(encode_batch_fast=lambda texts: seen.append(texts) or encode(texts))
        replace(opened, source_tokenizer=tokenizer).translate(["\te\u0301te\u0301  a "], opened.search)
    assert seen == [["été a"], ["e\u0301te\u0301 a"], ["e\u0301te\u0301 a"]]


def test_what_is_done_is_told_batch_by_batch(product: Product, lines: list[str]) -> None:
    told: list[int] = []
    expected = product.translate(lines, product.search)
    assert product.translate(lines, product.search, batch_tokens=1, done=told.append) == expected
    assert sum(told) == len(lines)
    assert max(told) == 1
    assert product.translate([""], product.search, done=told.append)[0].text == ""
    assert sum(told) == len(lines) + 1


def test_no_more_batches_wait_than_asked_for(product: Product, lines: list[str]) -> None:
    order: list[str] = []
    engine: Any = SimpleNamespace(
        submit=lambda batch, search: order.append("submit") or [None] * len(batch),
        collect=lambda handle: order.append("collect") or [],
    )
    for ahead, expected in ((0, "submit collect submit collect"), (1, "submit submit collect collect")):
        order.clear()
        replace(product, engine=engine, ahead=ahead).translate(["a", "b"], product.search, batch_tokens=1)
        assert " ".join(order) == expected


@pytest.mark.parametrize(
    ("engine", "expected"),
    [("ctranslate2-float32", (1, 2)), ("onnxruntime-float32", (2, 2)), ("onnxruntime-int8", (2, 2))],
)
def test_threads_are_batches_in_ctranslate2_and_threads_elsewhere(
    engine: str, expected: tuple[int, int], four_bits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []

    def start(name: str, *_: object, threads: int, batches: int, **__: object) -> Any:
        given.append((threads, batches))
        return SimpleNamespace(name=name)

    monkeypatch.setattr("pipeline.engines.registry.start_engine", start)
    before = torch.get_num_threads()
    open_product(four_bits.directory, engine=engine, threads=2)
    torch.set_num_threads(before)
    assert given == [expected]


def test_a_long_line_loses_its_end(product: Product, four_bits: Source, corpus: PreparedCorpus) -> None:
    long = "My mother saw the house. " * 60
    found = product.translate([long, "Tom saw it."], product.search)
    assert [result.cut for result in found] == [True, False]
    expected = translate(
        plain(four_bits.directory), corpus.tokenizer(), [long.strip()], engine="ctranslate2-int8", **SEARCH
    )
    assert found[0].text == expected[0]


def test_small_batches_change_nothing(product: Product, lines: list[str]) -> None:
    assert product.translate(lines, product.search, batch_tokens=1) == product.translate(lines, product.search)


def test_a_search_is_the_directory_s_with_changes(product: Product) -> None:
    assert product.search_with() == BeamSearch(**SEARCH)
    assert product.search_with(beam=1, length_penalty=0.0) == BeamSearch(**SEARCH | {"beam": 1, "length_penalty": 0.0})
    with pytest.raises(StudyError, match="beam is 0"):
        product.search_with(beam=0)
    with pytest.raises(StudyError, match="max_length is 300; the model has positions for 1 to 256"):
        product.search_with(max_length=300)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (None, BeamSearch(beam=4, length_penalty=1.0, max_length=80)),
        ({"max_length": 128}, BeamSearch(beam=4, length_penalty=1.0, max_length=80)),
        (
            {"num_beams": 5, "max_length": 202, "length_penalty": 0.6},
            BeamSearch(beam=5, length_penalty=0.6, max_length=201),
        ),
        ({"num_beams": 2, "max_new_tokens": 7}, BeamSearch(beam=2, length_penalty=1.0, max_length=7)),
    ],
)
def test_the_search_stands_in_generation_config(
    settings: dict[str, float] | None, expected: BeamSearch, tmp_path: Path
) -> None:
    if settings is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    assert search_of(tmp_path) == expected


@pytest.mark.parametrize("name", ["model.bin", "tokenizer.json", "generation_config.json", "shared_vocabulary.json"])
def test_a_directory_that_is_not_whole_is_one_line(name: str, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    path = tmp_path / "copy" / name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StudyError, match=rf"{name}: \d+ bytes, not the \d+ that were written; export the model again"):
        open_product(tmp_path / "copy")
    path.unlink()
    with pytest.raises(StudyError, match=f"{name}: missing"):
        open_product(tmp_path / "copy")


def test_what_is_no_model_is_one_line(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such directory"):
        open_product(tmp_path / "nowhere")
    with pytest.raises(StudyError, match=r"no model\.safetensors"):
        open_product(tmp_path)
    with pytest.raises(StudyError, match="exported for ctranslate2-int8; for 'torch', export it with --engine torch"):
        open_product(exported, engine="torch")
    with pytest.raises(StudyError, match="threads is 0"):
        open_product(exported, threads=0)


@pytest.mark.parametrize("engine", ["torch", "transformers", "ctranslate2-float32"])
def test_a_model_directory_runs_in_any_engine(
    engine: str, four_bits: Source, corpus: PreparedCorpus, lines: list[str]
) -> None:
    product = open_product(four_bits.directory, engine=engine)
    found = product.translate(lines[:8], product.search_with(**SEARCH))
    expected = translate(plain(four_bits.directory), corpus.tokenizer(), lines[:8], engine=engine, **SEARCH)
    assert [result.text for result in found] == expected
    assert product.engine.name == engine
