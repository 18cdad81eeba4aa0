"""A small corpus for encoders: reviews of several sentences each, and sentences with a class; specs to prepare them."""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.text_corpus import EncoderCorpusSpec

EncoderSpecFactory = Callable[..., EncoderCorpusSpec]
Labelled = tuple[str, int]

THINGS = ("film", "plot", "cast", "music", "ending", "hero", "dialogue", "camera")
PRAISE = ("superb", "moving", "clever", "charming", "worth every minute")
BLAME = ("dull", "clumsy", "far too long", "a mess", "beneath contempt")
WHO = ("my sister", "the critic", "nobody", "the man in front", "everyone")
WHEN = ("last night", "in May", "after dinner", "on the train", "again")


@pytest.fixture(scope="session")
def documents() -> list[str]:
    """120 documents of 2 to 9 sentences."""
    rng = np.random.default_rng(5)
    sentences = [
        f"{who.capitalize()} called the {thing} {word} {when}."
        for who, thing, word, when in product(WHO, THINGS, PRAISE + BLAME, WHEN)
    ]
    return [" ".join(rng.choice(sentences, size=rng.integers(2, 10), replace=False)) for _ in range(120)]


@pytest.fixture(scope="session")
def labelled() -> list[Labelled]:
    """400 sentences of two classes."""
    rows = [
        (f"The {thing} , {who} said {when} , is {word} .", int(word in PRAISE))
        for thing, word, who, when in product(THINGS, PRAISE + BLAME, WHO, WHEN)
    ]
    return [rows[i] for i in np.random.default_rng(6).permutation(len(rows))[:400].tolist()]


def csv_bytes(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """Return a CSV with a header, quoted where it must be."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([names, *rows])
    return text.getvalue().encode()


def cached_wheel(cache: Path, members: dict[str, bytes]) -> dict[str, str]:
    """Put a wheel into the cache of fetched packages and return the fields that name it."""
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in members.items():
            wheel.writestr(name, data)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"kind": "package", "package": "demo==1.0", "file": path.name, "sha256": digest}


@pytest.fixture(scope="session")
def make_encoder_spec() -> EncoderSpecFactory:
    """Return a function that makes an EncoderCorpusSpec for small data from the fields of text and of sentences."""

    def make(text: dict[str, Any], sentences: dict[str, Any], **fields: Any) -> EncoderCorpusSpec:
        small: dict[str, Any] = {
            "kind": "text",
            "text": {"valid_documents": 12, "test_documents": 15} | text,
            "sentences": {"classes": 2} | sentences,
            "license": "CC0",
            "credit": "nobody",
            "vocab_size": 320,
            "sequence_tokens": 32,
            "max_tokens": 24,
        }
        for name, size in (("valid", 40), ("test", 60)):
            if not {f"{name}_path", f"{name}_split"} & sentences.keys():
                small["sentences"].setdefault(f"{name}_sentences", size)
        return EncoderCorpusSpec(**(small | fields))

    return make


@pytest.fixture(scope="session")
def encoder_files(
    documents: list[str], labelled: list[Labelled], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """The small corpus as a text file and a CSV: the fields `text` and `sentences` that name them."""
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "reviews.txt").write_text("\n\n".join(document.replace(". ", ".\n") for document in documents) + "\n")
    (folder / "sentences.csv").write_bytes(csv_bytes(("text", "label"), labelled))
    return {
        "text": {"kind": "files", "paths": [str(folder / "reviews.txt")]},
        "sentences": {"kind": "csv", "path": str(folder / "sentences.csv")},
    }


@pytest.fixture(scope="session")
def encoder_corpus(
    encoder_files: dict[str, dict[str, Any]],
    make_encoder_spec: EncoderSpecFactory,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The small corpus, prepared: a directory with text/ and sentences/."""
    from pipeline.corpora.encoder_preparation import prepare_encoder_corpus

    out = tmp_path_factory.mktemp("prepared") / "corpus"
    prepare_encoder_corpus(make_encoder_spec(**encoder_files), out)
    assert PreparedCorpus.open(out).kind == "encoder"
    return out
