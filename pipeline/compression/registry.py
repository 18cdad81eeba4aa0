"""Every compression method by the name that a recipe's step gives."""

from __future__ import annotations

from pipeline.compression.candidate import Method
from pipeline.compression.methods import ffn, heads, layers, width

METHODS: dict[str, Method] = {
    "heads": heads.apply,
    "ffn": ffn.apply,
    "layers": layers.apply,
    "width": width.apply,
}
"""{a step's `method`: what does its work}; a test holds the names to those of pipeline.recipes."""
