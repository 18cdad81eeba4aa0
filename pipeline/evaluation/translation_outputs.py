"""One translation model in the engines that it is asked for: hypotheses, what they are compared with, their scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.compression.formats import size_bytes
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.deployed import WITHOUT_REFUSAL
from pipeline.engines.parity import same_hypotheses
from pipeline.engines.registry import start_engine
from pipeline.engines.search import Engine
from pipeline.errors import StudyError
from pipeline.evaluation.decoding import translate
from pipeline.evaluation.translation import plain, score_lines

REFERENCE, ITS_REFERENCE = WITHOUT_REFUSAL, "transformers"
"""What engines are compared with, and what that is compared with."""


def _reference(name: str) -> str:
    return REFERENCE if name != REFERENCE else ITS_REFERENCE


class TranslationOutputs:
    """Every engine is started, and every greedy search done, once. `search` has beam, length_penalty and max_length."""

    def __init__(self, directory: Path, corpus: PreparedCorpus, search: dict[str, Any]) -> None:
        self.directory, self.search = directory, search
        self.model, self.tokenizer = plain(directory), corpus.tokenizer()
        self.split = corpus.pairs("test")
        self._engines: dict[str, Engine] = {}
        self._greedy: dict[str, list[str]] = {}

    def engine(self, name: str) -> Engine:
        """Return the running engine of a name; EngineRefusal where it does not take the model."""
        if name not in self._engines:
            self._engines[name] = start_engine(name, self.model, self.tokenizer)
        return self._engines[name]

    def _searched(self, name: str, beam: int) -> list[str]:
        sources = self.split.source_lines()
        hypotheses = translate(
            self.model,
            self.tokenizer,
            sources,
            beam=beam,
            length_penalty=self.search["length_penalty"],
            max_length=self.search["max_length"],
            engine=self.engine(name),
        )
        if len(hypotheses) != len(sources):
            raise StudyError(f"{self.directory}: {name} gave {len(hypotheses)} hypotheses for {len(sources)} lines")
        return hypotheses

    def lines(self, name: str) -> list[str]:
        """Return the test set's hypotheses, counted; EngineRefusal where the engine does not take the model."""
        return self._searched(name, self.search["beam"])

    def greedy(self, name: str) -> list[str]:
        """Return the test set's greedy hypotheses."""
        if name not in self._greedy:
            self._greedy[name] = self._searched(name, 1)
        return self._greedy[name]

    def share_alike(self, name: str) -> float:
        """Return the share of the test set that the engine's fp32 search and the reference translate alike, greedily."""
        family = name.partition("-")[0]
        compared = name if family == name else f"{family}-float32"
        mine, others = self.greedy(compared), self.greedy(_reference(name))
        return same_hypotheses(mine, others)

    def fault(self, name: str, share: float) -> str:
        """Return what is wrong where only such a share is alike."""
        return f"only {share:.1%} of its greedy fp32 hypotheses are {_reference(name)}'s"

    def scores(self, lines: list[str], *, resamples: int) -> dict[str, Any]:
        """Return quality, its interval and signature, and chrF, of hypotheses."""
        return score_lines(lines, self.split, resamples=resamples)

    def size_bytes(self, name: str) -> int:
        """Return the bytes of the files that the engine reads: its own, or the model's where it has none."""
        own: int | None = getattr(self.engine(name), "size_bytes", None)
        return size_bytes(self.directory) if own is None else own
