"""Every compression method by the name that a recipe's step gives."""

from __future__ import annotations

from pipeline.compression.candidate import Method
from pipeline.compression.methods import (
    activations,
    distill,
    ffn,
    finetune,
    gptq,
    heads,
    layers,
    magnitude,
    qat,
    quanto,
    uniform,
    wanda,
    width,
)

METHODS: dict[str, Method] = {
    "activations": activations.apply,
    "distill": distill.apply,
    "ffn": ffn.apply,
    "finetune": finetune.apply,
    "gptq": gptq.apply,
    "heads": heads.apply,
    "layers": layers.apply,
    "magnitude": magnitude.apply,
    "qat": qat.apply,
    "quanto": quanto.apply,
    "uniform": uniform.apply,
    "wanda": wanda.apply,
    "width": width.apply,
}
"""{a step's `method`: what does its work}; a test holds the names to those of pipeline.recipes."""
