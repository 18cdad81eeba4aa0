"""The tokenizers of a model directory: one for both languages, or a second one for the target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.corpora.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TARGET = "target"
"""The folder in a model directory that holds the target's tokenizer where it is not the source's."""


def source_and_target(directory: str | Path) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    """Return a model directory's tokenizers of source and target; the same object where there is one for both.

    StudyError when one is missing or damaged.
    """
    directory = Path(directory)
    source = load_tokenizer(directory)
    return source, load_tokenizer(directory / TARGET) if (directory / TARGET).is_dir() else source


def save_tokenizers(
    directory: str | Path, source: PreTrainedTokenizerFast, target: PreTrainedTokenizerFast | None = None
) -> None:
    """Write the tokenizers into a model directory so that `source_and_target` finds them; no target: one for both."""
    directory = Path(directory)
    source.save_pretrained(directory)
    if target is not None and target is not source:
        target.save_pretrained(directory / TARGET)
