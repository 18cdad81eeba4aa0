"""Opening what translates: a damaged directory is one line, a search is checked, a long line is cut and told of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

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
