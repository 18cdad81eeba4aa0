"""Every kind of training run of a tiny study, made in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.distillation.sequences import write_translations
from tests.attempts import Attempts, Command, Runs
from tests.classifiers import prepared_corpus
from tests.runs import DISTILL, FINETUNE, MASKED_LM, PRETRAIN, PRUNE, compression


@pytest.fixture(scope="package")
def encoder_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus for encoders, prepared: a directory with text/ and sentences/."""
    return prepared_corpus(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="package")
def runs(corpus: PreparedCorpus, encoder_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """With dropout on: a pretraining, its model pruned and trained rounded, and its students: at either level, and begun from it.

    Beside them an encoder's pretraining, and its classifiers.
    """
    folder = tmp_path_factory.mktemp("runs")
    reads = {"corpus": str(corpus.path)}
    taught = reads | {"pretrained": str(folder), "translations": str(folder / "translations")}
    short = {"budgets": {"seconds": "16 s"}, "recovery_fraction": 0.5, "checkpoint_seconds": 1.0}
    cooled = {"warmup_steps": 3, "decay_fraction": 0.25, "checkpoint_seconds": 1.0}
    student = DISTILL | cooled | {"budget": "16 s", "teacher_seconds_per_step": {"w16x1": 0.8}}
    qat = compression({"qat2": [{"method": "qat", "bits": 2}]})
    commands = {
        "pretrain": Command(function="pretrain", entry=PRETRAIN | short | cooled, inputs=reads),
        "prune": Command(function="prune", entry=PRUNE | short, inputs=reads | {"parent": str(folder / "out")}),
        "qat": Command(function="prune", entry=qat | short, inputs=reads | {"parent": str(folder / "out")}),
        "word": Command(function="distill", entry=student | {"method": "word", "teacher_fraction": 0.5}, inputs=taught),
        "sequence": Command(
            function="distill", entry=student | {"method": "sequence", "teaching": "sequence"}, inputs=taught
        ),
        "bothinit": Command(
            function="distill",
            entry=student | {"method": "both", "init": "teacher", "teaching": "bothinit", "teacher_fraction": 0.5},
            inputs=taught,
        ),
        "masked": Command(
            function="pretrain",
            entry=MASKED_LM | short | cooled,
            inputs={"corpus": str(encoder_corpus / "text")},
        ),
        "finetune": Command(
            function="finetune",
            entry=FINETUNE | short,
            inputs={"corpus": str(encoder_corpus / "sentences"), "pretrained": str(folder / "encoder" / "out")},
        ),
    }
    with Attempts() as attempts:
        runs = Runs(attempts=attempts, commands=commands, folder=folder)
        parent = runs("pretrain", folder)
        assert parent.code == 0, parent.fault
        encoder = runs("masked", folder / "encoder")
        assert encoder.code == 0, encoder.fault
        write_translations(
            {"study": "tiny", "sentences": 20, "seconds_per_sentence": {"w16x1": 0.1}, "beam": 1},
            teacher="out",
            teacher_path=folder / "out" / "seconds",
            corpus=corpus,
            out=folder / "translations",
            decode=lambda path, lines: [line.upper() for line in lines],  # in place of a beam search, which takes long
        )
        yield runs
