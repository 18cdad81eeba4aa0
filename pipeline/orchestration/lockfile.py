"""dvc.lock written for many stages at once, as DVC itself would have written it stage by stage.

DVC parses and writes the whole file anew for every stage, seconds for a study's; here the entries that stay keep their text and
only new ones are serialized, by DVC's own serializer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.files import atomic_path

_HEAD = "schema: '2.0'\nstages:\n"
_ENTRY = re.compile(r"^  ([\w.@+-]+):\n", re.MULTILINE)


def _chunks(text: str) -> dict[str, str] | None:
    """Return the text of every entry by stage, or None where the file is not laid out as DVC lays it out."""
    if not text:
        return {}
    if not text.startswith(_HEAD):
        return None
    starts = list(_ENTRY.finditer(text, len(_HEAD)))
    if not starts or starts[0].start() != len(_HEAD):
        return None
    ends = [match.start() for match in starts[1:]] + [len(text)]
    chunks = {match[1]: text[match.start() : end] for match, end in zip(starts, ends, strict=True)}
    inner = (line for chunk in chunks.values() for line in chunk.splitlines()[1:])
    return chunks if len(chunks) == len(starts) and all(line.startswith("    ") for line in inner) else None


def _serialized(name: str, entry: Mapping[str, Any]) -> str | None:
    from dvc.utils.serialize import dumps_yaml

    head = "stages:\n"
    text: str = dumps_yaml({"stages": {name: dict(entry)}})
    return text[len(head) :] if text.startswith(f"{head}  {name}:\n") else None


def merged(text: str, entries: Mapping[str, Mapping[str, Any]], order: Sequence[str], before: Sequence[str]) -> str:
    """Return dvc.lock's `text` with new or changed `entries`.

    Entries that stood there `before` keep their place; the others follow in the `order` in which DVC alone would have run the
    stages, whatever the order in which they were done.
    """
    chunks = _chunks(text)
    fresh = {name: _serialized(name, entry) for name, entry in entries.items()}
    if chunks is None or None in fresh.values():
        return _by_dvc(text, entries)
    chunks |= {name: chunk for name, chunk in fresh.items() if chunk is not None}
    known, place = set(before), {name: number for number, name in enumerate(order)}
    added = sorted((name for name in chunks if name not in known and name in place), key=place.__getitem__)
    names = [name for name in chunks if name in known or name not in place] + added
    return _HEAD + "".join(chunks[name] for name in names)


def _by_dvc(text: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the same by parsing and writing the whole file, as DVC does."""
    from dvc.utils.serialize import dumps_yaml
    from dvc.utils.serialize._yaml import parse_yaml_for_update

    data: Any = parse_yaml_for_update(text, "dvc.lock") if text else {}
    if not data:
        data.update({"schema": "2.0"})
    data["stages"] = data.get("stages", {})
    data["stages"].update({name: dict(entry) for name, entry in entries.items()})
    written: str = dumps_yaml(data)
    return written


class LockWriter:
    """The one writer of a run's dvc.lock files."""

    def __init__(self, path: Path, order: Sequence[str]) -> None:
        self.path, self.order = path, order
        chunks = _chunks(self._read())
        self._before = tuple(chunks or ())

    def _read(self) -> str:
        return self.path.read_text(encoding="utf-8") if self.path.exists() else ""

    def write(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the entries of stages that are done, all in one step; what others wrote meanwhile stays."""
        text = merged(self._read(), entries, self.order, self._before)
        with atomic_path(self.path) as temporary:
            temporary.write_text(text, encoding="utf-8")
