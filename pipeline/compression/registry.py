"""Every compression method by the name that a recipe's step gives."""

from __future__ import annotations

from pipeline.compression.candidate import Method
from pipeline.compression.methods import distill, finetune, magnitude, qat

METHODS: dict[str, Method] = {
    "distill": distill.apply,
    "finetune": finetune.apply,
    "magnitude": magnitude.apply,
    "qat": qat.apply,
}
"""{a step's `method`: what does its work}; a test holds the names to those of pipeline.recipes."""
