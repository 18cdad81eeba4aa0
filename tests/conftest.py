"""A small parallel corpus, made of sentences and some that share a side, and specs to prepare it."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.pair_corpus import CorpusSpec

os.environ.setdefault("TLC_DEVICE", "cpu")  # to the bit the same everywhere; the tests of a GPU ask for it

Pair = tuple[str, str]
SpecFactory = Callable[..., CorpusSpec]

SUBJECTS = [("I", "je"), ("we", "nous"), ("my mother", "ma mère"), ("the old teacher", "le vieux professeur")]
SUBJECTS += [("Tom", "Tom"), ("his brother", "son frère"), ("the children", "les enfants"), ("nobody", "personne")]
VERBS = [("saw", "a vu"), ("wanted", "voulait"), ("lost", "a perdu"), ("doesn't like", "n'aime pas")]
VERBS += [("will find", "trouvera"), ("remembered", "s'est souvenu de")]
OBJECTS = [("the house", "la maison"), ("a letter", "une lettre"), ("the train to Paris", "le train pour Paris")]
OBJECTS += [("that question", "cette question"), ("the weather in May", "le temps de mai"), ("it", "l'objet")]
OBJECTS += [("two black dogs", "deux chiens noirs"), ("some sugar", "du sucre")]


@pytest.fixture(scope="session")
def pairs() -> list[Pair]:
    """384 distinct sentences, 60 of them with a second translation, 20 translations with a second source: 464 pairs."""
    plain = [
        (f"{s[0].capitalize()} {v[0]} {o[0]}.", f"{s[1].capitalize()} {v[1]} {o[1]}.")
        for s, v, o in product(SUBJECTS, VERBS, OBJECTS)
    ]
    order = np.random.default_rng(3).permutation(len(plain)).tolist()
    plain = [plain[i] for i in order]
    twice = [(source, target.replace(".", " !")) for source, target in plain[:60]]
    paraphrased = [(source.replace(".", " indeed."), target) for source, target in plain[50:70]]
    return plain + twice + paraphrased


@pytest.fixture(scope="session")
def write_pairs() -> Callable[[Path, list[Pair]], Path]:
    """Return a function that writes pairs as a TSV without a header."""

    def write(path: Path, rows: list[Pair]) -> Path:
        path.write_bytes("".join(f"{source}\t{target}\n" for source, target in rows).encode())
        return path

    return write


@pytest.fixture(scope="session")
def make_spec() -> SpecFactory:
    """Return a function that makes a CorpusSpec for small data; keywords override."""

    def make(**fields: Any) -> CorpusSpec:
        small: dict[str, Any] = {
            "source_lang": "en",
            "target_lang": "fr",
            "license": "CC0",
            "credit": "nobody",
            "valid_sentences": 30,
            "test_sentences": 50,
            "vocab_size": 300,
            "max_tokens": 60,
        }
        if fields.get("kind") == "tsv":
            small |= {"source_column": 0, "target_column": 1}
        return CorpusSpec(**(small | fields))

    return make


@pytest.fixture(scope="session")
def corpus(
    pairs: list[Pair],
    write_pairs: Callable[..., Path],
    make_spec: SpecFactory,
    tmp_path_factory: pytest.TempPathFactory,
) -> PreparedCorpus:
    """The small corpus, prepared."""
    from pipeline.corpora.preparation import prepare

    folder = tmp_path_factory.mktemp("corpus")
    path = write_pairs(folder / "pairs.tsv", pairs)
    prepare(make_spec(kind="tsv", path=str(path)), folder / "prepared")
    return PreparedCorpus.open(folder / "prepared")


@pytest.fixture(scope="session")
def trained() -> Any:
    """A small trained model whose beams are undecided, with its tokenizer and new lines (tests/trained.py)."""
    from tests.trained import train

    return train()
