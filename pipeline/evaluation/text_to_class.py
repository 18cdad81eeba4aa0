"""From lines of text to classes, one for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pipeline.engines.batches import batches_of_like_length
from pipeline.errors import StudyError
from pipeline.evaluation.classification import predicted
from pipeline.progress import progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.engines.classifier import Classifier


class SentenceEncoder:
    """From lines to ids as the prepare stage makes them: ``<s> A </s>``, and of two sentences ``<s> A </s></s> B </s>``.

    A tab stands between the two sentences of a line. Of more than `max_tokens` ids, special ones counted, the end is lost,
    of two sentences the longer one's. Names of special tokens are text like any other.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, max_tokens: int) -> None:
        self.backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # one of its own, to set up
        self.backend.enable_truncation(max_tokens, strategy="longest_first")
        self.backend.no_padding()
        self.backend.encode_special_tokens = True

    @classmethod
    def of_corpus(cls, corpus: PreparedCorpus) -> SentenceEncoder:
        """Return what makes of a corpus' lines the ids that lie in it."""
        return cls(corpus.tokenizer(), max_tokens=corpus.card["rules"]["max_tokens"])

    def __call__(self, lines: list[str]) -> list[list[int]]:
        """Return each line's ids."""
        sentences = [tuple(line.split("\t", 1)) if "\t" in line else line for line in lines]
        return [encoding.ids for encoding in self.backend.encode_batch_fast(sentences)]


def classes_of_lines(
    engine: Classifier, encode: SentenceEncoder, lines: list[str], *, batch_tokens: int = 1000
) -> NDArray[np.int64]:
    """Return the class (n,) that an engine predicts for every line; `batch_tokens` bounds padded tokens a batch."""
    if batch_tokens < 1:
        raise StudyError(f"batch_tokens {batch_tokens} must be at least 1")
    encoded = encode(lines)
    classes = np.zeros(len(lines), dtype=np.int64)
    with progress(total=len(lines), desc="classify", unit="sentence") as bar:
        for batch in batches_of_like_length([len(ids) for ids in encoded], batch_tokens):
            classes[batch] = predicted(engine.classify([encoded[i] for i in batch]))
            bar.update(len(batch))
    return classes
