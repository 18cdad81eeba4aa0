"""Which of a model's parameters are learnt, and which of those are tables of the vocabulary."""

from __future__ import annotations

from torch import nn

TABLES = ("model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head")
"""Modules with a row for every word: the embeddings and the output projection. Which of them are one matrix, a model says."""
EMBEDDINGS = frozenset(f"{table}.weight" for table in TABLES)
ALWAYS_ZERO = frozenset({"final_logits_bias"})
"""Buffers of Marian that files leave out; a model whose own are not 0 is refused when it is loaded."""

_POSITIONS = ".embed_positions."


def learnt_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that training changes and files hold, by name, in the model's order, tied ones once.

    Marian's sinusoids are parameters too, but follow from the configuration: they are left out.
    """
    return {name: parameter for name, parameter in model.named_parameters() if _POSITIONS not in name}
