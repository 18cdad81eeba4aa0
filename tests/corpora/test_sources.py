"""Every kind of source gives the same pairs; every fault of a file is one line that names it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from pipeline.corpora.cleaning import RawPair, clean
from pipeline.corpora.sources import files_pairs, open_source
from pipeline.errors import StudyError
from pipeline.pair_corpus import CorpusSpec

Pair = tuple[str, str]
SpecFactory = Callable[..., CorpusSpec]


def text_of(raw: Iterable[RawPair]) -> list[Pair]:
    pairs, _ = clean(raw, where="x")
    return list(zip(pairs.sources, pairs.targets, strict=True))


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.fixture
def quoted(pairs: list[Pair]) -> list[Pair]:
    """Pairs that a careless reader breaks: quotation marks, NA, numbers, other line ends inside."""
    return [('"Go', 'Va" !'), ("NA", "null"), ("1.0", "007"), ("a\u2028b", "c\x85d"), *pairs[:40]]


def expected(rows: list[Pair]) -> list[Pair]:
    return [(" ".join(source.split()), " ".join(target.split())) for source, target in rows]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_tsv_by_index_and_by_name(ending: str, quoted: list[Pair], tmp_path: Path, make_spec: SpecFactory) -> None:
    body = ending.join(f"7\t{target}\t{source}" for source, target in quoted)
    path = write(tmp_path / "a.tsv", body)
    assert text_of(open_source(make_spec(kind="tsv", path=path, source_column=2, target_column=1))[1]) == expected(
        quoted
    )
    path = write(tmp_path / "b.tsv", "\ufeffid\tfrançais\tenglish" + ending + body + ending)
    spec = make_spec(kind="tsv", path=path, source_column="english", target_column="français")
    assert text_of(open_source(spec)[1]) == expected(quoted)


def test_aligned_files(quoted: list[Pair], tmp_path: Path, make_spec: SpecFactory) -> None:
    paths = {
        "source_path": write(tmp_path / "a.en", "\n".join(pair[0] for pair in quoted)),
        "target_path": write(tmp_path / "a.fr", "\n".join(pair[1] for pair in quoted) + "\n"),
    }
    assert text_of(open_source(make_spec(kind="files", **paths))[1]) == expected(quoted)


def test_parquet(quoted: list[Pair], tmp_path: Path, make_spec: SpecFactory) -> None:
    path = str(tmp_path / "a.parquet")
    table = pd.DataFrame([*quoted, (None, "vide")], columns=["english", "french"], dtype="str")
    table.assign(score=1.5).to_parquet(path)
    spec = make_spec(kind="parquet", path=path, source_column="english", target_column="french")
    found, counts = clean(open_source(spec)[1], where=path)
    assert list(zip(found.sources, found.targets, strict=True)) == expected(quoted)
    assert counts["empty"] == 1
    by_index = make_spec(kind="parquet", path=path, source_column=0, target_column=1)
    assert text_of(open_source(by_index)[1]) == expected(quoted)


def test_dataset_folder_with_translation_dicts(quoted: list[Pair], tmp_path: Path, make_spec: SpecFactory) -> None:
    rows = {"translation": [{"en": source, "fr": target} for source, target in quoted]}
    data = datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)})
    data.save_to_disk(tmp_path / "both")
    data["train"].save_to_disk(tmp_path / "one")
    for name in ("both", "one"):
        spec = make_spec(kind="datasets", path=str(tmp_path / name))
        assert text_of(open_source(spec)[1]) == expected(quoted)
    spec = make_spec(kind="datasets", path=str(tmp_path / "both"), dataset_split="tran")
    with pytest.raises(StudyError, match=r"no split 'tran'; did you mean 'train'"):
        list(open_source(spec)[1])
    spec = make_spec(kind="datasets", path=str(tmp_path / "both"), target_lang="de")
    with pytest.raises(StudyError, match=r"no language 'de' in the column 'translation'"):
        list(open_source(spec)[1])


def test_dataset_folder_with_columns(quoted: list[Pair], tmp_path: Path, make_spec: SpecFactory) -> None:
    columns = {"english": [pair[0] for pair in quoted], "french": [pair[1] for pair in quoted]}
    datasets.Dataset.from_dict({**columns, "n": [1] * len(quoted)}).save_to_disk(tmp_path / "d")
    fields = {"kind": "datasets", "path": str(tmp_path / "d"), "source_column": "english"}
    assert text_of(open_source(make_spec(**fields, target_column="french"))[1]) == expected(quoted)
    with pytest.raises(StudyError, match=r"no column 'frnch'; did you mean 'french'"):
        list(open_source(make_spec(**fields, target_column="frnch"))[1])
    with pytest.raises(StudyError, match="row 1: holds int, not text"):
        list(open_source(make_spec(**fields, target_column="n"))[1])
    with pytest.raises(StudyError, match=r"no column 'translation'.*corpus\.source_column"):
        list(open_source(make_spec(kind="datasets", path=str(tmp_path / "d")))[1])


def test_dataset_missing_or_damaged(tmp_path: Path, make_spec: SpecFactory) -> None:
    with pytest.raises(StudyError, match=r"no/such: no such folder"):
        list(open_source(make_spec(kind="datasets", path="./no/such"))[1])
    datasets.Dataset.from_dict({"a": ["b"]}).save_to_disk(tmp_path / "d")
    (tmp_path / "d" / "dataset_info.json").write_text("{")
    with pytest.raises(StudyError, match=r"d: the data set could not be loaded .*save_to_disk") as caught:
        list(open_source(make_spec(kind="datasets", path=str(tmp_path / "d")))[1])
    assert "\n" not in str(caught.value)


def test_unequal_files_give_both_counts(tmp_path: Path) -> None:
    source, target = write(tmp_path / "a.en", "x\n" * 12), write(tmp_path / "a.fr", "y\n" * 11)
    with pytest.raises(StudyError, match=r"a\.en has 12 lines and .*a\.fr has 11"):
        list(files_pairs(source, target))


def test_missing_and_empty_files(tmp_path: Path) -> None:
    good = write(tmp_path / "train.en", "x\n")
    with pytest.raises(StudyError, match=r"trian\.en: no such file; did you mean '.*train\.en'"):
        list(files_pairs(tmp_path / "trian.en", good))
    with pytest.raises(StudyError, match=r"empty\.en: the file is empty"):
        list(files_pairs(write(tmp_path / "empty.en", ""), good))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("englsh", "french"), r"no column 'englsh'; did you mean 'english'"),
        ((0, 5), r"no column 5; the first line has 2 columns"),
        ((0, -1), r"no column -1"),
    ],
)
def test_missing_tsv_column(columns: tuple[Any, Any], message: str, tmp_path: Path, make_spec: SpecFactory) -> None:
    path = write(tmp_path / "a.tsv", "english\tfrench\nGo.\tVa !\n")
    spec = make_spec(kind="tsv", path=path, source_column=columns[0], target_column=columns[1])
    with pytest.raises(StudyError, match=message):
        list(open_source(spec)[1])


def test_short_lines_are_malformed_not_shifted(tmp_path: Path, make_spec: SpecFactory) -> None:
    path = write(tmp_path / "a.tsv", b"Go.\tVa !\nno tab\n\xff\tx\nHi.\tSalut.\tmore\n")
    pairs, counts = clean(open_source(make_spec(kind="tsv", path=path))[1], where=path)
    assert pairs.sources == ["Go.", "Hi."]
    assert pairs.numbers.tolist() == [1, 4]
    assert (counts["malformed"], counts["bad_utf8"]) == (1, 1)


def test_bad_parquet(tmp_path: Path, make_spec: SpecFactory) -> None:
    good = tmp_path / "a.parquet"
    pd.DataFrame({"english": ["Go."], "count": [3]}).to_parquet(good)
    fields = {"kind": "parquet", "source_column": "english"}
    with pytest.raises(StudyError, match="no column 'englisch'; did you mean 'english'"):
        list(open_source(make_spec(**fields, path=str(good), target_column="englisch"))[1])
    with pytest.raises(StudyError, match="column 'count' holds int64, not text"):
        list(open_source(make_spec(**fields, path=str(good), target_column="count"))[1])
    cut = write(tmp_path / "cut.parquet", good.read_bytes()[:-30])
    with pytest.raises(StudyError, match=r"cut\.parquet: not a readable Parquet file"):
        list(open_source(make_spec(**fields, path=cut, target_column="english"))[1])
