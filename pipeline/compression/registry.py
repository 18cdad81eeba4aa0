"""Every compression method by the name that a recipe's step gives."""

from __future__ import annotations

from pipeline.compression.candidate import Method
from pipeline.compression.methods import activations, distill, finetune, gptq, magnitude, qat, quanto, uniform, wanda

METHODS: dict[str, Method] = {
    "activations": activations.apply,
    "distill": distill.apply,
    "finetune": finetune.apply,
    "gptq": gptq.apply,
    "magnitude": magnitude.apply,
    "qat": qat.apply,
    "quanto": quanto.apply,
    "uniform": uniform.apply,
    "wanda": wanda.apply,
}
"""{a step's `method`: what does its work}; a test holds the names to those of pipeline.recipes."""
