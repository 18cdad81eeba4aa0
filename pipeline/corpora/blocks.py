"""Running text in blocks of equal length, over the ends of documents: RoBERTa's FULL-SENTENCES.

Liu et al. 2019, section 4.2: documents follow each other, and a separator stands where one ends.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.corpora.token_array import TokenArray
from pipeline.corpora.tokenizer import EOS_ID


def cut_blocks(documents: TokenArray, length: int, *, endless: bool) -> tuple[TokenArray, NDArray[np.int64]]:
    """Return blocks of `length` tokens in the documents' order, and the document (n,) that each begins with.

    One </s> stands between two documents, wherever that falls in a block. The last block is shorter where tokens run
    out; with `endless` the text begins anew behind a </s> until that block is full too, so that training pads nothing.
    """
    count = len(documents)
    starts = documents.offsets[:-1] + np.arange(count)  # in the text with separators
    text = np.full(len(documents.ids) + count - (not endless), EOS_ID, dtype=np.uint16)
    text[np.arange(len(documents.ids)) + np.repeat(np.arange(count), documents.lengths)] = documents.ids
    number = -(-len(text) // length)
    if endless:
        text = np.resize(text, number * length)  # repeats from the beginning
    offsets = np.minimum(np.arange(number + 1) * length, len(text)).astype(np.int64)
    # a separator counts to the document behind it, of which a block that begins with it holds the first tokens
    return TokenArray(text, offsets), np.searchsorted(starts - 1, offsets[:-1], side="right") - 1
