"""One classifier in the engines that it is asked for: predicted classes, what they are compared with, their scores.

Engines read text; what they are compared with is the plain forward pass over the ids that lie in the corpus, which losses
and accuracies are measured with. A class that differs may thus be the engine's fault, or that of the tokens it was given.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.compression.formats import size_bytes
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.engines.classifier import Classifier
from pipeline.engines.parity import same_hypotheses
from pipeline.engines.registry import start_classifier
from pipeline.evaluation.accuracy import score_classes
from pipeline.evaluation.classification import class_logits, predicted
from pipeline.evaluation.text_to_class import SentenceEncoder, classes_of_lines
from pipeline.evaluation.translation import plain


class ClassOutputs:
    """Every engine is started, and asked for the test set's classes, once."""

    def __init__(self, directory: Path, corpus: PreparedCorpus) -> None:
        self.directory = directory
        self.model, self.encode = plain(directory), SentenceEncoder.of_corpus(corpus)
        self.split = corpus.sentences("test")
        self._engines: dict[str, Classifier] = {}
        self._classes: dict[str, list[str]] = {}

    def engine(self, name: str) -> Classifier:
        """Return the running engine of a name; EngineRefusal where it does not take the model."""
        if name not in self._engines:
            self._engines[name] = start_classifier(name, self.model)
        return self._engines[name]

    def lines(self, name: str) -> list[str]:
        """Return the test set's predicted classes; EngineRefusal where the engine does not take the model."""
        if name not in self._classes:
            classes = classes_of_lines(self.engine(name), self.encode, self.split.lines())
            self._classes[name] = [str(number) for number in classes.tolist()]
        return self._classes[name]

    @cached_property
    def _reference(self) -> list[str]:
        return [str(number) for number in predicted(class_logits(self.model, self.split)).tolist()]

    def share_alike(self, name: str) -> float:
        """Return the share of the test set whose class the engine, in fp32, and the plain forward pass predict alike."""
        family = name.partition("-")[0]
        return same_hypotheses(self.lines(name if family == name else f"{family}-float32"), self._reference)

    def fault(self, name: str, share: float) -> str:
        """Return what is wrong where only such a share is alike."""
        return f"only {share:.1%} of its fp32 classes are those of the plain forward pass over the corpus"

    def scores(self, lines: list[str], *, resamples: int) -> dict[str, Any]:
        """Return quality, its interval and signature, of predicted classes."""
        correct = np.array([int(line) for line in lines]) == self.split.labels
        return {"chrf": None} | score_classes(correct, self.split.components(), resamples=resamples)

    def size_bytes(self, name: str) -> int:
        """Return the bytes of the files that the engine reads: its own, or the model's where it has none."""
        own: int | None = getattr(self.engine(name), "size_bytes", None)
        return size_bytes(self.directory) if own is None else own
