"""What an engine that tells classes apart is asked and answers, and how it fills up a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.engines.search import EngineRefusal

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Ints = NDArray[np.int64]
Logits = NDArray[np.float32]


class Classifier(Protocol):
    """What turns sentences' ids into logits of classes."""

    name: str

    def classify(self, ids: list[list[int]]) -> Logits:
        """Return the logits (n, C) of one batch of n sentences, <s> and </s> among their ids."""
        ...


def padded(ids: list[list[int]], pad: int) -> tuple[Ints, Ints]:
    """Return a batch's ids (n, S), with `pad` behind the shorter sentences, and 1 where they are sentences' (n, S)."""
    lengths = np.array([len(row) for row in ids])
    mask = np.arange(lengths.max()) < lengths[:, None]
    filled = np.full(mask.shape, pad, dtype=np.int64)
    filled[mask] = np.concatenate(ids)
    return filled, mask.astype(np.int64)


def check_classifier(config: PretrainedConfig, engine: str) -> None:
    """Raise EngineRefusal on a model that is no encoder with a classification head."""
    from pipeline.models.architectures import class_of, is_encoder

    if not is_encoder(config) or "Classification" not in class_of(config).__name__:
        kind = (config.architectures or [config.model_type])[0]
        raise EngineRefusal(
            f"{engine} can classify with a finetuned encoder alone, not with {kind}; give it a classifier"
        )
