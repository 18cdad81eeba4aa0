"""Every compression method by the name that a recipe's step gives."""

from __future__ import annotations

from pipeline.compression.candidate import Method

METHODS: dict[str, Method] = {}
"""{a step's `method`: what does its work}; a test holds the names to those of pipeline.recipes."""
