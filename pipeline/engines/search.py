"""What every engine is asked and answers.

In all of them a hypothesis scores its summed log-probability divided by length ** length_penalty, </s> counted in the
length; the search ends when `beam` hypotheses are finished; <s>, <pad> and an empty hypothesis are never produced, and
what they would have had of the probability goes to the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.errors import StudyError


@dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """How to search: `beam` hypotheses a sentence, at most `max_length` tokens each, </s> included."""

    beam: int
    length_penalty: float
    max_length: int


class EngineRefusal(StudyError):
    """An engine cannot take a model; the message says why, and the model's row repeats it."""


class Engine(Protocol):
    """What turns source ids into target ids."""

    name: str

    def submit(self, sources: list[list[int]], search: BeamSearch) -> list[Any]:
        """Start to translate one batch of source ids, </s> included; the handles are for `collect`, one a sentence."""
        ...

    def collect(self, handle: Any) -> list[int]:
        """Return the best hypothesis' ids; special tokens may be among them."""
        ...
