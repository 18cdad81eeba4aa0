"""Every compression method by the name that a recipe's step gives."""

from __future__ import annotations

from pipeline.compression.candidate import Method
from pipeline.compression.methods import distill, ffn, finetune, heads, layers, magnitude, width

METHODS: dict[str, Method] = {
    "distill": distill.apply,
    "ffn": ffn.apply,
    "finetune": finetune.apply,
    "heads": heads.apply,
    "layers": layers.apply,
    "magnitude": magnitude.apply,
    "width": width.apply,
}
"""{a step's `method`: what does its work}; a test holds the names to those of pipeline.recipes."""
