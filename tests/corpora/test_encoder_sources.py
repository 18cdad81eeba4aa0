"""Every kind of source gives the same documents and sentences; every fault of a file is one line that names it."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from pipeline.corpora.documents import without_markup
from pipeline.corpora.encoder_sources import joined_lines, open_documents, open_sentences, origin
from pipeline.corpora.tables import separated_rows
from pipeline.errors import StudyError
from pipeline.text_corpus import SentencesSpec, TextSpec
from tests.corpora.conftest import Labelled, cached_wheel, csv_bytes

ODD = [('"Quoted", and a comma', 0), ("two\nlines", 1), ("tab\there", 1), ("NA", 0), ("a\u2028b", 1), ("été", 0)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of fetched packages of its own."""
    monkeypatch.setenv("TLC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def text_spec(**fields: Any) -> TextSpec:
    return TextSpec(**{"valid_documents": 1, "test_documents": 1} | fields)


def sentences_spec(**fields: Any) -> SentencesSpec:
    return SentencesSpec(**{"classes": 2, "valid_sentences": 1, "test_sentences": 1} | fields)


def texts_of(spec: TextSpec) -> list[str | None]:
    return [text for _, documents in open_documents(spec) for _, text in documents]


def rows_of(spec: SentencesSpec, part: str | None = None) -> list[tuple[Any, ...]]:
    return [cells for _, cells in open_sentences(spec, part)[1] if cells is not None]


def write(path: Path, data: str | bytes) -> str:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def test_blank_lines_end_documents(tmp_path: Path) -> None:
    first = write(tmp_path / "a.txt", "\ufeff\n\none\ntwo\r\n \t\n\n\nthree\n")
    second = write(tmp_path / "b.txt", "four")
    spec = text_spec(kind="files", paths=[first, second])
    assert texts_of(spec) == ["one\ntwo\r", "three", "four"]
    assert [where for where, _ in open_documents(spec)] == [first, second]
    assert [number for number, _ in open_documents(spec)[0][1]] == [3, 8]
    assert list(origin(spec)["sha256_of_files"]) == [first, second]


def test_documents_that_begin_with_a_heading() -> None:
    lines = ["", " = One = ", "", "a", " = = Part = = ", "b", "", " = Two = ", "c"]
    found = list(joined_lines(enumerate(lines, start=1), start="^ ?= [^=]+ = ?$"))
    assert found == [(2, " = One = \na\n = = Part = = \nb"), (8, " = Two = \nc")]


def test_text_in_a_package(cache: Path, documents: list[str]) -> None:
    plain = "\n\n".join(documents).encode()
    rows = [(text, 1, "imdb") for text in documents] + [("Another source .", 0, "tomatoes")]
    table = csv_bytes(("text", "label", "source"), rows)
    wheel = cached_wheel(cache, {"d/all.csv": table, "d/all.txt": plain, "d/all.raw.gz": gzip.compress(plain)})
    for member in ("d/all.txt", "d/all.raw.gz"):
        assert texts_of(text_spec(**wheel, archive_member=member)) == documents
    chosen = text_spec(**wheel, archive_member="d/all.csv", column="text", where={"source": "imdb"})
    assert texts_of(chosen) == documents
    assert open_documents(chosen)[0][0] == f"{wheel['file']}:d/all.csv"
    with pytest.raises(StudyError, match="no row whose source is 'imbd'; did you mean 'imdb'"):
        texts_of(chosen.model_copy(update={"where": {"source": "imbd"}}))
    with pytest.raises(StudyError, match="no column 'sauce'; did you mean 'source'"):
        texts_of(chosen.model_copy(update={"where": {"sauce": "imdb"}}))


def test_text_of_a_data_set(tmp_path: Path, documents: list[str]) -> None:
    data = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": documents, "n": range(120)})})
    data.save_to_disk(tmp_path / "d")
    spec = text_spec(kind="datasets", path=str(tmp_path / "d"))
    assert texts_of(spec) == documents
    assert texts_of(text_spec(kind="datasets", path=str(tmp_path / "d"), where={"n": 7})) == documents[7:8]
    with pytest.raises(StudyError, match="row 1: holds int, not text"):
        texts_of(text_spec(kind="datasets", path=str(tmp_path / "d"), column="n"))
    with pytest.raises(StudyError, match="no column 'txt'; did you mean 'text'"):
        texts_of(text_spec(kind="datasets", path=str(tmp_path / "d"), column="txt"))
    lines = [" = One = \n", "", "a\n", " = Two = \n", "b\n"]
    datasets.Dataset.from_dict({"text": lines}).save_to_disk(tmp_path / "lines")
    by_heading = text_spec(kind="datasets", path=str(tmp_path / "lines"), document_start="^ = [^=]+ = $")
    assert [text.split() for text in texts_of(by_heading)] == [["=", "One", "=", "a"], ["=", "Two", "=", "b"]]


def as_csv(path: Path, rows: list[Labelled]) -> dict[str, Any]:
    return {
        "kind": "csv",
        "path": write(path / "a.csv", csv_bytes(("id", "text", "label"), [(7, *row) for row in rows])),
    }


def as_tsv(path: Path, rows: list[Labelled]) -> dict[str, Any]:
    lines = ["label\ttext", *(f"{label}\t{' '.join(text.split())}" for text, label in rows)]
    return {"kind": "tsv", "path": write(path / "a.tsv", "\n".join(lines))}


def as_parquet(path: Path, rows: list[Labelled]) -> dict[str, Any]:
    pd.DataFrame(rows, columns=["text", "label"]).to_parquet(path / "a.parquet")
    return {"kind": "parquet", "path": str(path / "a.parquet")}


def as_datasets(path: Path, rows: list[Labelled]) -> dict[str, Any]:
    columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns, features=features)}).save_to_disk(path / "d")
    return {"kind": "datasets", "path": str(path / "d")}


def as_package(path: Path, rows: list[Labelled]) -> dict[str, Any]:
    member = csv_bytes(("text", "label"), rows)
    return cached_wheel(path / "cache", {"d/a.csv": member}) | {"archive_member": "d/a.csv"}


@pytest.mark.parametrize("store", [as_csv, as_tsv, as_parquet, as_datasets, as_package])
def test_labelled_sentences(
    store: Callable[[Path, list[Labelled]], dict[str, Any]], labelled: list[Labelled], tmp_path: Path
) -> None:
    rows = ODD + labelled[:20]
    fields = store(tmp_path, rows)
    found = [(" ".join(text.split()), int(label)) for text, label in rows_of(sentences_spec(**fields))]
    assert found == [(" ".join(text.split()), label) for text, label in rows]
    with pytest.raises(StudyError, match="no column 'lable'; did you mean 'label'") as caught:
        rows_of(sentences_spec(**fields, label_column="lable"))
    assert "\n" not in str(caught.value)


def test_pairs_and_given_splits(tmp_path: Path) -> None:
    columns = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 1]}
    parts = {"train": columns, "validation": {**columns, "label": [1, 1]}}
    datasets.DatasetDict({k: datasets.Dataset.from_dict(v) for k, v in parts.items()}).save_to_disk(tmp_path / "d")
    fields = {"kind": "datasets", "path": str(tmp_path / "d"), "text_column": "premise", "pair_column": "hypothesis"}
    spec = sentences_spec(**fields, valid_sentences=None, valid_split="validation")
    assert rows_of(spec) == [("a", "c", 0), ("b", "d", 1)]
    assert rows_of(spec, "valid") == [("a", "c", 1), ("b", "d", 1)]
    assert open_sentences(spec, "valid")[0].endswith("split validation")
    with pytest.raises(StudyError, match="no split 'tset'"):
        rows_of(sentences_spec(**fields, dataset_split="tset"))


def test_html() -> None:
    assert without_markup("Good.<br /><br />Bad &amp; <i>ugly</i>, 3 < 4 > 2").split() == (
        ["Good.", "Bad", "&", "ugly", ",", "3", "<", "4", ">", "2"]
    )


def lines_of(text: str, **fields: Any) -> Iterable[Any]:
    return list(separated_rows(text, ["text", "label"], where="a.csv", **fields))


def test_short_lines_are_malformed() -> None:
    assert lines_of("text,label\na,1\n\nb\n") == [(2, ("a", "1")), (4, None)]
    assert lines_of('text\tlabel\n"a\t1\n', tabs=True) == [(2, ('"a', "1"))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('text,label\n"a,1\nb,0\n', r"a\.csv, line 3: not a readable CSV"),
        ('text,label\n"a"b,1\n', r"a\.csv, line 2: not a readable CSV"),
        ("", r"a\.csv: no column 'text'"),
    ],
)
def test_damaged_csv(text: str, message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        lines_of(text)
    assert "\n" not in str(caught.value)


def test_damaged_files(cache: Path, tmp_path: Path, labelled: list[Labelled]) -> None:
    latin = write(tmp_path / "latin.txt", "one\ntwo\ncaf\xe9\n".encode("latin-1"))
    with pytest.raises(StudyError, match=r"latin\.txt, line 3: not valid UTF-8"):
        texts_of(text_spec(kind="files", paths=[latin]))
    with pytest.raises(StudyError, match=r"latn\.txt: no such file; did you mean '.*latin\.txt'"):
        texts_of(text_spec(kind="files", paths=[str(tmp_path / "latn.txt")]))
    with pytest.raises(StudyError, match=r"empty\.csv: the file is empty"):
        rows_of(sentences_spec(kind="csv", path=write(tmp_path / "empty.csv", "")))
    whole = Path(as_parquet(tmp_path, labelled)["path"]).read_bytes()
    with pytest.raises(StudyError, match=r"cut\.parquet: not a readable Parquet file"):
        rows_of(sentences_spec(kind="parquet", path=write(tmp_path / "cut.parquet", whole[:-30])))
    wheel = cached_wheel(cache, {"a.gz": gzip.compress(b"one\n\ntwo" * 99)[:-9], "b.csv": b"text,label\n"})
    with pytest.raises(StudyError, match=r"whl:a\.gz: truncated or damaged \(EOFError\).*fetch it again"):
        texts_of(text_spec(**wheel, archive_member="a.gz"))
    with pytest.raises(StudyError, match=r"no member 'c\.csv'; did you mean 'b\.csv'"):
        rows_of(sentences_spec(**wheel, archive_member="c.csv"))
