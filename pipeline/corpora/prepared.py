"""A prepared corpus on disk: splits whose token ids are mapped, not read; the tokenizer and the card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.corpora.encoder_splits import LabelledSplit, TextSplit
from pipeline.corpora.masking import Masking
from pipeline.corpora.token_array import TokenArray as TokenArray
from pipeline.errors import StudyError, nearest
from pipeline.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPLITS = ("train", "valid", "test")
CARD = "card.json"
TASKS = {"translation": (".", "pairs"), "masked_lm": ("text", "text"), "classification": ("sentences", "sentences")}
"""Where in a prepared directory a task's corpus lies, and of what kind it is."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of sentence pairs: training has every pair; validation and test have one entry for every distinct source sentence."""

    name: str
    source: TokenArray
    target: TokenArray
    directory: Path
    start_id: int = 0  # the token that the decoder begins with

    def __len__(self) -> int:
        return len(self.source)

    @property
    def padded_lengths(self) -> NDArray[np.int64]:
        """Positions (n,) that each pair's longer side takes in a batch, one special token counted."""
        return np.maximum(self.source.lengths, self.target.lengths) + 1

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


AnySplit: TypeAlias = Split | TextSplit | LabelledSplit


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
    """What `prepare` wrote: splits, tokenizer and card, whose `kind` says what the splits are (absent: pairs)."""

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

    @classmethod
    def open_task(cls, path: str | Path, task: str) -> PreparedCorpus:
        """Open the part of a prepared directory that a task trains on: ``translation``, ``masked_lm``, ``classification``.

        StudyError as `open`, and when the directory was prepared for other tasks.
        """
        path = Path(path)
        if task not in TASKS:
            raise StudyError(f"no task {task!r}{nearest(task, TASKS)}")
        folder, kind = TASKS[task]
        corpus = cls.open(path / folder if (path / folder / CARD).is_file() else path)
        if corpus.kind == kind:
            return corpus
        raise StudyError(f"{path}: this corpus was not prepared for {task}; give the corpus of a study with that task")

    @property
    def kind(self) -> str:
        """What the splits hold: ``pairs``, ``text``, ``sentences``, or ``encoder`` for a directory of the last two."""
        return str(self.card.get("kind", "pairs"))

    @property
    def classes(self) -> int:
        """How many classes the sentences have; 0 in a corpus without labels."""
        return int(self.card.get("classes", 0))

    def split(self, name: str) -> AnySplit:
        """Return the split ``train``, ``valid`` or ``test``: of pairs, of text or of sentences, as the corpus' kind is."""
        if name not in SPLITS:
            raise StudyError(f"{self.path}: no split {name!r}{nearest(name, SPLITS)}")
        if self.kind == "text":
            return TextSplit.open(self.path, name, masking=Masking(vocab_size=self.vocab_size, **self.card["masking"]))
        if self.kind == "sentences":
            return LabelledSplit.open(self.path, name, classes=self.classes)
        if self.kind != "pairs":
            raise StudyError(f"{self.path}: this directory has no splits of its own; open text or sentences inside it")
        sides = [TokenArray.open(self.path / f"{name}-{side}") for side in ("source", "target")]
        return Split(name=name, source=sides[0], target=sides[1], directory=self.path, start_id=self.start_id)

    def pairs(self, name: str) -> Split:
        """Return a split of sentence pairs; StudyError where the corpus holds something else."""
        split = self.split(name)
        if not isinstance(split, Split):
            raise StudyError(f"{self.path}: sentence pairs are needed, and this corpus holds {self.kind}")
        return split

    def sentences(self, name: str) -> LabelledSplit:
        """Return a split of labelled sentences; StudyError where the corpus holds something else."""
        split = self.split(name)
        if not isinstance(split, LabelledSplit):
            raise StudyError(f"{self.path}: labelled sentences are needed, and this corpus holds {self.kind}")
        return split

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return the joint tokenizer, or the source's, which appends </s> unless called with add_special_tokens=False."""
        from pipeline.corpora.tokenizer import load_tokenizer

        return load_tokenizer(self.path / "tokenizer")
