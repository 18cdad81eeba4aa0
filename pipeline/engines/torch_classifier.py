"""A classifier's own forward pass in torch, on its own device: for models that no other engine takes, and to compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.engines.classifier import Logits, check_classifier, padded

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


class TorchClassifier:
    """Whatever the model's modules compute, rounded inputs and optimum-quanto's layers included."""

    name = "torch"

    def __init__(self, model: Model) -> None:
        """EngineRefusal on a model that is no classifier."""
        check_classifier(model.config, "torch")
        self.model: Any = model

    def classify(self, ids: list[list[int]]) -> Logits:
        """Return the logits of one batch, in eval mode; the model's own mode is put back."""
        source, mask = (
            torch.from_numpy(part).to(self.model.device) for part in padded(ids, self.model.config.pad_token_id)
        )
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():  # not inference_mode: optimum-quanto's tensors do not take it
                logits = self.model(input_ids=source, attention_mask=mask).logits
        finally:
            self.model.train(training)
        return np.asarray(logits.cpu().numpy(), dtype=np.float32)
