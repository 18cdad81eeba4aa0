"""What stands for the corpus of a model that is given without one: its tokenizer, its vocabulary, and no sentences."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.corpora.prepared import AnySplit, PreparedCorpus
from pipeline.corpora.tokenizers_of import TARGET
from pipeline.errors import StudyError

_TOKENIZER_FILES = ("*token*.json", "vocab*", "merges.txt", "*.model", "*.spm")


@dataclass(frozen=True)
class CopiedTokenizer:
    """The tokenizer files of a model directory, as they are."""

    origin: Path

    def save_pretrained(self, directory: Any, /) -> None:
        """Copy them into `directory`, the target's own with them."""
        for pattern in _TOKENIZER_FILES:
            for file in sorted(self.origin.glob(pattern)):
                if file.is_file():
                    shutil.copyfile(file, Path(directory) / file.name)
        if (self.origin / TARGET).is_dir():
            shutil.copytree(self.origin / TARGET, Path(directory) / TARGET, dirs_exist_ok=True)


class ModelsOwn(PreparedCorpus):
    """A model directory in a corpus' place, with the corpus where one is given: the model keeps its own tokenizer."""

    def __init__(
        self, model: Path, *, vocab_size: int, facts: Mapping[str, Any], corpus: PreparedCorpus | None
    ) -> None:
        """Take languages, licence and credit from `facts`, and the sentences from `corpus`."""
        super().__init__(model, {**facts, "tokenizer": {"vocab_size": vocab_size}})
        self._corpus = corpus

    def split(self, name: str) -> AnySplit:
        """Return a split of the corpus; StudyError where there is none."""
        if self._corpus is None:
            raise StudyError("this recipe needs sentences; give a prepared corpus with --corpus")
        return self._corpus.split(name)

    def tokenizer(self) -> Any:
        """Return the model's own tokenizer files, for saving."""
        return CopiedTokenizer(self.path)
