"""What an engine that takes a model's weights alone must refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.engines.search import EngineRefusal

if TYPE_CHECKING:
    from torch import nn


def check_plain_weights(model: nn.Module, engine: str) -> None:
    """Raise EngineRefusal where a model computes more than its weights say, or holds them in another library's tensors.

    More than its weights: forward hooks, which is how inputs of linear layers are rounded on calibrated ranges.
    """
    for name, module in model.named_modules():
        if module._forward_pre_hooks or module._forward_hooks:
            raise EngineRefusal(
                f"{engine} takes weights alone, but the model rounds the inputs of {name} on a calibrated range; "
                "use engine 'torch'"
            )
    parameters: Any = model.named_parameters()
    for name, parameter in parameters:
        if hasattr(parameter, "qtype"):
            raise EngineRefusal(
                f"{engine} takes fp32 weights, but {name} is optimum-quanto's; give it "
                "pipeline.compression.quanto_files.plain_model(model)"
            )
