"""Labelled sentences, prepared."""

from __future__ import annotations

import pytest

from pipeline.corpora.prepared import PreparedCorpus
from tests.classifiers import prepared_corpus


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> PreparedCorpus:
    """The labelled sentences of a small corpus for encoders."""
    return PreparedCorpus.open_task(prepared_corpus(tmp_path_factory.mktemp("encoders")), "classification")
