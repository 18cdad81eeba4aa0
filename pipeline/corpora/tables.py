"""Rows of CSV, TSV and Parquet files and of data sets: the columns that are asked for, of the rows that are wanted."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.corpora.sources import BOM, cause_of, existing_file, open_dataset
from pipeline.errors import StudyError, nearest

Row = tuple[int, tuple[Any, ...] | None]
"""(number from 1: the line it ends on in a file, else the row; the cells, or None where the line has too few)."""

_LONGEST_CELL = 1 << 30


def decoded(data: bytes, where: str) -> str:
    """Return UTF-8 text without its byte order mark; StudyError names the first line that is something else."""
    try:
        return data.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise StudyError(f"{where}, line {line}: not valid UTF-8; convert the file to UTF-8") from None


def _positions(columns: Sequence[str], names: Sequence[str], where: str) -> list[int]:
    for column in columns:
        if column not in names:
            raise StudyError(f"{where}: no column {column!r}{nearest(column, names)}")
    return [list(names).index(column) for column in columns]


def separated_rows(text: str, columns: Sequence[str], *, where: str, tabs: bool = False) -> Iterator[Row]:
    """Yield the cells of `columns` of a CSV with a header, or of a TSV, where quotation marks are ordinary characters.

    StudyError on a missing column, and on quotation marks of a CSV that do not match.
    """
    csv.field_size_limit(_LONGEST_CELL)
    lines = io.StringIO(text, newline="")
    rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines, strict=True)
    try:
        positions = _positions(columns, next(rows, []), where)
        for cells in rows:
            if cells:
                whole = max(positions) < len(cells)
                yield rows.line_num, tuple(cells[i] for i in positions) if whole else None
    except csv.Error as error:
        raise StudyError(f"{where}, line {rows.line_num}: not a readable CSV ({cause_of(error)}); mend it") from None


def parquet_rows(path: str, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the cells of `columns` of a Parquet file; StudyError when it is damaged or lacks one."""
    import pyarrow
    import pyarrow.parquet

    existing_file(path)
    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(path)
        _positions(columns, table.schema_arrow.names, path)
        for batch in table.iter_batches(columns=list(dict.fromkeys(columns))):
            for cells in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                number += 1
                yield number, cells
    except (pyarrow.ArrowException, OSError) as error:
        raise StudyError(f"{path}: not a readable Parquet file ({cause_of(error)}); write it again") from error


def dataset_rows(path: str, columns: Sequence[str], *, config: str | None, split: str | None) -> Iterator[Row]:
    """Yield the cells of `columns` of one split of a data set: of the hub, or of a folder that save_to_disk wrote.

    The split is `train` unless named. StudyError when it cannot be loaded, or lacks the split or a column.
    """
    data = open_dataset(path, config)
    if isinstance(data, dict):
        wanted = split or "train"
        if wanted not in data:
            raise StudyError(f"{path}: no split {wanted!r}{nearest(wanted, data)}")
        data = data[wanted]
    elif split is not None and str(data.split or split) != split:
        raise StudyError(f"{path}: holds the split {data.split!s} alone, not {split!r}; leave the split out")
    _positions(columns, data.column_names, path)
    number = 0
    for batch in data.select_columns(list(dict.fromkeys(columns))).iter(batch_size=1000):
        for cells in zip(*(batch[name] for name in columns), strict=True):
            number += 1
            yield number, cells


def chosen_rows(
    rows: Iterator[Row], *, columns: int, values: Mapping[str, str | int] | None, where: str
) -> Iterator[Row]:
    """Yield the first `columns` cells of the rows whose further cells have these values; StudyError when none has."""
    if not values:
        yield from rows
        return
    wanted = [str(value) for value in values.values()]
    seen: list[set[str]] = [set() for _ in wanted]
    found = False
    for number, cells in rows:
        if cells is None:
            yield number, None
            continue
        further = [str(cell) for cell in cells[columns:]]
        if further == wanted:
            found = True
            yield number, cells[:columns]
        elif not found:
            for known, value in zip(seen, further, strict=True):
                known.update([value] if len(known) < 20 else [])
    if not found:
        name, value, known = next(
            (found for found in zip(values, wanted, seen, strict=True) if found[1] not in found[2]),
            (next(iter(values)), wanted[0], set()),
        )
        raise StudyError(f"{where}: no row whose {name} is {value!r}{nearest(value, known)}; mend `where`")
