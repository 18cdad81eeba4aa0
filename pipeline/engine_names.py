"""The engines' names, for those who must not import an engine: a study's settings are checked against them."""

from __future__ import annotations

ENGINES = (
    "ctranslate2-float32",
    "ctranslate2-int16",
    "ctranslate2-int8",
    "onnxruntime-float32",
    "onnxruntime-int8",
    "torch",
    "transformers",
)

CLASSIFIER_ENGINES = ("onnxruntime-float32", "onnxruntime-int8", "torch")
"""Those that take a classifier: CTranslate2 has no such encoder, and transformers' generate writes text."""
