"""What every side trains on: a size, and the first batches of the default study's stream."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.corpora.batches import Batch, BatchStream
from pipeline.corpora.prepared import CARD, PreparedCorpus
from pipeline.errors import StudyError
from pipeline.size import SizeSpec
from pipeline.study import Study, load_study
from pipeline.training.pricing import step_price

NUM_LAYERS = 2
LEARNING_RATE = 1e-4
"""Small, so that no side diverges; it has no influence on speed."""
_STUDY = Path(__file__).resolve().parents[2] / "configs" / "default.yaml"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """`steps` batches of a corpus for a model of one size, trained as the default study says."""

    study: Study
    corpus: PreparedCorpus
    size: SizeSpec
    steps: int

    @classmethod
    def of(cls, job: dict[str, Any]) -> Workload:
        """Open the workload of a job (corpus, d_model, steps); StudyError when its corpus is not there or no model is so wide."""
        path = Path(job["corpus"])
        if not (path / CARD).is_file():
            raise StudyError(f"{path}: no prepared corpus there; `dvc repro prepare@default` makes the default study's")
        try:
            size = SizeSpec(d_model=job["d_model"], num_layers=NUM_LAYERS)
        except ValidationError as error:
            raise StudyError(error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")) from None
        return cls(study=load_study(_STUDY), corpus=PreparedCorpus.open(path), size=size, steps=job["steps"])

    def stream(self) -> BatchStream:
        """Return the stream whose first batches every side trains on."""
        return BatchStream(self.corpus.pairs("train"), batch_tokens=self.study.training.batch_tokens, seed=0)

    def batches(self) -> list[Batch]:
        """Return the batches in order."""
        return list(islice(self.stream(), self.steps))

    def step_flops(self, batch: Batch) -> int:
        """Return the matmul FLOPs that the model needs for one update on `batch`, padding included."""
        price = step_price(self.size, vocab_size=self.corpus.vocab_size, seconds_per_step=0.0)
        return int(price(batch, 0)["train"].flops)

    @property
    def equal(self) -> str:
        """What is the same for all sides, in words."""
        training = self.study.training
        return (
            f"the batches (real sentences, at most {training.batch_tokens} padded tokens of the longer side) and their order, "
            f"the model's shape ({NUM_LAYERS}+{NUM_LAYERS} layers, pre-norm, tied embeddings, vocabulary "
            f"{self.corpus.vocab_size}), no dropout, label smoothing {training.label_smoothing}, Adam with weight decay "
            f"{training.weight_decay}, gradient norm clipped to {training.clip_norm}, the cores"
        )
