"""A converted CTranslate2 model, run from its directory with nothing but ctranslate2 loaded: no torch, no transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2

from pipeline.engines.search import BeamSearch, EngineRefusal
from pipeline.errors import StudyError


def open_translator(
    directory: str | Path, *, weights: str, inter_threads: int = 1, intra_threads: int = 1
) -> ctranslate2.Translator:
    """Return a CPU translator of a converted model that computes in the type its weights are stored in.

    EngineRefusal where this processor cannot compute so (CTranslate2 would take another type in silence); StudyError on a
    damaged model.
    """
    if weights not in ctranslate2.get_supported_compute_types("cpu"):
        raise EngineRefusal(
            f"{directory}: CTranslate2 cannot compute in {weights} on this processor; use engine 'ctranslate2-float32'"
        )
    try:
        return ctranslate2.Translator(
            str(directory),
            device="cpu",
            compute_type=weights,
            inter_threads=inter_threads,
            intra_threads=intra_threads,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise StudyError(f"{directory}: CTranslate2 cannot open the model ({reason}); export it again") from error


class RunningCTranslate2:
    """An engine over a translator; `tokens` are the vocabulary in the order of its ids."""

    def __init__(
        self, translator: ctranslate2.Translator, *, name: str, tokens: Sequence[str], suppressed: Sequence[str]
    ) -> None:
        self.name, self.translator, self.tokens = name, translator, tokens
        self.ids = {token: number for number, token in enumerate(tokens)}
        self.suppressed = [[token] for token in suppressed]

    def submit(self, sources: list[list[int]], search: BeamSearch) -> list[Any]:
        """Queue one batch; waits while the queue is full."""
        return list(
            self.translator.translate_batch(
                [[self.tokens[number] for number in source] for source in sources],
                beam_size=search.beam,
                # Exactly 0 would turn on another rule for when to stop (as soon as the best beam is finished).
                length_penalty=search.length_penalty or 1e-9,
                min_decoding_length=1,
                max_decoding_length=search.max_length,
                max_input_length=0,  # sources are cut before, so that all engines see the same
                suppress_sequences=self.suppressed,
                asynchronous=True,
            )
        )

    def collect(self, handle: Any) -> list[int]:
        """Wait for a sentence's result."""
        return [self.ids[token] for token in handle.result().hypotheses[0]]
