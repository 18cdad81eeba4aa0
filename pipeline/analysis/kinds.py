"""Kinds of recipe in groups that a reader can tell apart: what rounds, what masks, what removes whole parts."""

from __future__ import annotations

ROUNDING = {"uniform": "round to nearest", "gptq": "GPTQ", "qat": "QAT", "quanto": "quanto"}
MASKING = ("magnitude", "magnitude-once", "magnitude-global", "wanda", "wanda-once")
STRUCTURED = ("heads", "ffn", "layers", "width")

GROUP_MARKERS = {
    "fp32": "o",
    "round to nearest": "s",
    "GPTQ": "D",
    "QAT": "P",
    "quanto": "p",
    "masks": "^",
    "masks, rounded": "v",
    "structured": "<",
    "structured, rounded": ">",
    "trained on": "h",
}
"""{group: marker}, in the order of legends."""


def group_of(kind: str) -> str:
    """Return the group of a kind such as ``magnitude+finetune+uniform``; of fp32, whose kind is ``none``, ``fp32``."""
    parts = kind.split("+")
    rounding = [ROUNDING[part] for part in parts if part in ROUNDING]
    if any(part in STRUCTURED for part in parts):
        return "structured, rounded" if rounding else "structured"
    if any(part in MASKING for part in parts):
        return "masks, rounded" if rounding else "masks"
    if rounding:
        return rounding[0]
    return "fp32" if kind == "none" else "trained on"
