"""Documents of running text cleaned, and held out whole."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.corpora import splits
from pipeline.corpora.cleaning import normalise
from pipeline.corpora.encoder_sources import open_documents
from pipeline.corpora.words import FEWEST_WORDS, holding, words_of
from pipeline.errors import StudyError
from pipeline.progress import progress
from pipeline.text_corpus import EncoderCorpusSpec, TextSpec

Ints = NDArray[np.int64]
Documents = tuple[list[str], Ints]
"""Normalised documents, one a line, and their components (n,)."""

_TAG = re.compile(r"</?[A-Za-z][^<>]*>")


def without_markup(text: str) -> str:
    """Return HTML as plain text: tags become spaces, entities the characters that they stand for."""
    return html.unescape(_TAG.sub(" ", text))


def _clean(spec: TextSpec) -> tuple[str, list[str], dict[str, int]]:
    """Return the source's name, the distinct documents and counts: raw = malformed + empty + duplicate + kept."""
    counts: Counter[str] = Counter(dict.fromkeys(("raw", "malformed", "empty", "duplicate", "kept"), 0))
    seen: dict[str, None] = {}
    sources = open_documents(spec)
    for _, documents in sources:
        for _, text in progress(documents, desc="cleaning", unit="document"):
            counts["raw"] += 1
            if text is None:
                counts["malformed"] += 1
                continue
            text = normalise(without_markup(text) if spec.html else text)
            state = "empty" if not text else "duplicate" if text in seen else "kept"
            counts[state] += 1
            if text:
                seen[text] = None
    where = " and ".join(name for name, _ in sources[:3]) + (" and others" if len(sources) > 3 else "")
    if not seen:
        raise StudyError(f"{where}: no text in {counts['raw']} documents; check the path, the column and `where`")
    return where, list(seen), dict(counts)


def draw_documents(
    spec: EncoderCorpusSpec, *, held_out_words: Iterable[str]
) -> tuple[dict[str, Documents], dict[str, Any]]:
    """Return the splits of the text, and what their card says of them.

    Documents whose words are the same, whatever their case and punctuation, are one component, which lies in one split.
    No document is kept that holds one of the held-out labelled sentences (as `words_of` gives them): a model is not
    pretrained on what it is tested on. StudyError on text that is empty, or too little for the splits.
    """
    source = spec.text
    where, texts, counts = _clean(source)
    words = [words_of(text) for text in texts]
    overlap = holding(words, held_out_words)
    kept = np.flatnonzero(~overlap)
    labels = splits.identities(words[i] for i in kept.tolist())
    if source.max_documents is not None and source.max_documents < len(kept):
        rng = np.random.default_rng([spec.split_seed, 20])
        subset = splits.random_subset(labels, source.max_documents, rng)
        kept, labels = kept[subset], np.unique(labels[subset], return_inverse=True)[1]
    wanted = {"test": source.test_documents, "valid": source.valid_documents}
    sizes = np.bincount(labels, minlength=1)
    rest = splits.held_out_candidates(labels, np.random.default_rng([spec.split_seed, 21]))
    drawn: dict[str, Ints] = {}
    for name, size in wanted.items():
        drawn[name], rest = splits.fill(rest, sizes, size)
    train = np.flatnonzero(~np.isin(labels, np.concatenate(list(drawn.values()))))
    if not len(train) or any(sizes[drawn[name]].sum() != size for name, size in wanted.items()):
        raise StudyError(
            f"{where}: {len(kept)} documents are too few for {wanted['test']} for test and {wanted['valid']} for valid "
            "beside training; lower corpus.text.valid_documents and test_documents, or raise max_documents"
        )
    orders = {"train": np.random.default_rng([spec.split_seed, 22]).permutation(train)}
    orders |= {name: np.flatnonzero(np.isin(labels, drawn[name])) for name in ("valid", "test")}
    found = {name: ([texts[i] for i in kept[order].tolist()], labels[order]) for name, order in orders.items()}
    facts = counts | {
        "hold_held_out_sentences": int(overlap.sum()),
        "fewest_words_looked_for": FEWEST_WORDS,
        "not_sampled": len(texts) - int(overlap.sum()) - len(kept),
        "components": len(np.unique(labels)),
    }
    return found, {"counts": facts}
