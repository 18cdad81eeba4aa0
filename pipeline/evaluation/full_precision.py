"""Measuring in fp32, whatever a model was trained in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipeline.models.architectures import is_encoder


@contextmanager
def full_precision(model: Any) -> Iterator[torch.device]:
    """Yield the model's device, without gradients, dropout and autocast; the training mode is put back.

    ValueError on a model that is not fp32.
    """
    table = model.get_input_embeddings() if is_encoder(model.config) else model.lm_head
    if table.weight.dtype != torch.float32:
        raise ValueError(f"losses are measured in fp32, but the model is {table.weight.dtype}")
    device: torch.device = table.weight.device
    training = model.training
    model.eval()
    try:
        # no_grad, not inference_mode: optimum-quanto's tensors do not take it
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield device
    finally:
        model.train(training)
