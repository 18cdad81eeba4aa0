"""A prepared corpus on disk: token ids in flat arrays that are mapped, not read; its text, references and card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StudyError, nearest
from pipeline.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPLITS = ("train", "valid", "test")
CARD = "card.json"


class TokenArray:
    """Sentences of token ids, without special tokens, in one flat array (memory-mapped where it comes from a file)."""

    def __init__(self, ids: NDArray[np.uint16], offsets: NDArray[np.int64]) -> None:
        self.ids = np.asarray(ids)  # a plain view: indexing a np.memmap costs several times as much
        self.offsets = np.asarray(offsets)
        self.lengths: NDArray[np.int64] = np.diff(self.offsets)

    @classmethod
    def open(cls, stem: Path) -> TokenArray:
        """Map ``<stem>.ids.npy`` and ``<stem>.offsets.npy``; StudyError when one is missing or damaged."""
        arrays = []
        for suffix in ("ids", "offsets"):
            path = stem.with_name(f"{stem.name}.{suffix}.npy")
            try:
                arrays.append(np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None, allow_pickle=False))
            except (OSError, ValueError, EOFError) as error:
                raise StudyError(f"{path}: missing or damaged ({type(error).__name__}); run prepare again") from error
        ids, offsets = arrays
        if ids.dtype != np.uint16 or offsets.dtype != np.int64 or not len(offsets) or offsets[-1] != len(ids):
            raise StudyError(f"{stem}: the offsets do not fit the ids; run prepare again")
        return cls(ids, offsets)

    def save(self, stem: Path) -> None:
        """Write ``<stem>.ids.npy`` (uint16) and ``<stem>.offsets.npy`` (int64, n + 1)."""
        np.save(stem.with_name(f"{stem.name}.ids.npy"), self.ids.astype(np.uint16, copy=False))
        np.save(stem.with_name(f"{stem.name}.offsets.npy"), self.offsets.astype(np.int64, copy=False))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> NDArray[np.uint16]:
        """Return the ids (length,) of one sentence, as a view."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split: training has every pair; validation and test have one entry for every distinct source sentence."""

    name: str
    source: TokenArray
    target: TokenArray
    directory: Path
    start_id: int = 0  # the token that the decoder begins with

    def __len__(self) -> int:
        return len(self.source)

    def _text(self, side: str) -> list[str]:
        path = self.directory / f"{self.name}-{side}.txt"
        lines = path.read_bytes().decode("utf-8").split("\n")[:-1]
        if len(lines) != len(self):
            raise StudyError(f"{path}: {len(lines)} lines for {len(self)} sentences; run prepare again")
        return lines

    def source_lines(self) -> list[str]:
        """Return the source sentences, normalised, in order."""
        return self._text("source")

    def target_lines(self) -> list[str]:
        """Return the target sentences (validation and test: the first reference), in order."""
        return self._text("target")

    def references(self) -> list[list[str]]:
        """Return every reference of every sentence, the target line first; validation and test only."""
        if self.name == "train":
            return [[line] for line in self.target_lines()]
        return [list(row) for row in read_json(self.directory / f"{self.name}-references.json")]

    def components(self) -> NDArray[np.int64]:
        """Return each sentence's component (n,), the unit to resample; validation and test only."""
        path = self.directory / f"{self.name}-components.npy"
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise StudyError(
                f"{path}: missing or damaged (only valid and test have components); run prepare again"
            ) from error


def write_split(
    directory: Path,
    name: str,
    *,
    sources: Sequence[str],
    references: Sequence[Sequence[str]],
    source: TokenArray,
    target: TokenArray,
    components: NDArray[np.int64] | None,
) -> None:
    """Write one split's files into `directory`; components are None for training, which has one reference a source."""
    for side, lines, tokens in (("source", sources, source), ("target", [row[0] for row in references], target)):
        tokens.save(directory / f"{name}-{side}")
        (directory / f"{name}-{side}.txt").write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))
    if components is not None:
        np.save(directory / f"{name}-components.npy", components.astype(np.int64))
        text = json.dumps([list(row) for row in references], ensure_ascii=False, indent=0)
        (directory / f"{name}-references.json").write_bytes(f"{text}\n".encode())


class PreparedCorpus:
    """What `prepare` wrote: splits, tokenizer and card."""

    def __init__(self, path: Path, card: dict[str, Any]) -> None:
        self.path = path
        self.card = card
        self.vocab_size: int = card["tokenizer"]["vocab_size"]  # of the targets
        self.start_id: int = card["tokenizer"].get("start_id", 0)

    @classmethod
    def open(cls, path: str | Path) -> PreparedCorpus:
        """Open a prepared directory; StudyError when it is missing, or a file of it is missing or cut short."""
        path = Path(path)
        if not (path / CARD).is_file():
            raise StudyError(f"{path}: no prepared corpus there; run `python -m stages.prepare --study NAME`")
        card = read_json(path / CARD)
        try:
            expected = {name: int(entry["bytes"]) for name, entry in card["files"].items()}
            corpus = cls(path, card)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise StudyError(
                f"{path / CARD}: not the card of a prepared corpus; delete {path} and run prepare again"
            ) from None
        for name, size in expected.items():
            file = path / name
            found = file.stat().st_size if file.is_file() else None
            if found != size:
                state = "is missing" if found is None else f"has {found} bytes, expected {size}"
                raise StudyError(f"{file}: {state}; delete {path} and run prepare again")
        return corpus

    def split(self, name: str) -> Split:
        """Return the split ``train``, ``valid`` or ``test``."""
        if name not in SPLITS:
            raise StudyError(f"{self.path}: no split {name!r}{nearest(name, SPLITS)}")
        sides = [TokenArray.open(self.path / f"{name}-{side}") for side in ("source", "target")]
        return Split(name=name, source=sides[0], target=sides[1], directory=self.path, start_id=self.start_id)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return the joint tokenizer, or the source's, which appends </s> unless called with add_special_tokens=False."""
        from pipeline.corpora.tokenizer import load_tokenizer

        return load_tokenizer(self.path / "tokenizer")
