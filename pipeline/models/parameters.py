"""Which of a model's parameters are learnt, and which of those are tables of the vocabulary."""

from __future__ import annotations

from torch import nn

TABLES = ("model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head")
"""Modules with a row for every word: the embeddings and the output projection. Which of them are one matrix, a model says."""
ENCODER_TABLE = "roberta_prelayernorm.embeddings.word_embeddings"
"""An encoder's only table of the vocabulary; a masked LM's output projection is the same matrix."""
EMBEDDINGS = frozenset(f"{table}.weight" for table in (*TABLES, ENCODER_TABLE))
ALWAYS_ZERO = frozenset({"final_logits_bias"})
"""Buffers of Marian that files leave out; a model whose own are not 0 is refused when it is loaded."""

LEARNED = "learned"
"""As a configuration's `sinusoids`: the positions are none, and follow from no formula."""

_POSITIONS = ".embed_positions."
_OUTPUT_BIAS = "lm_head.bias"  # of a masked LM, which stays 0


def stored_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that files hold, by name, in the model's order, tied ones once.

    Marian's sinusoids are parameters too, but follow from the configuration: they are left out, unless they were learned.
    """
    learned = getattr(getattr(model, "config", None), "sinusoids", None) == LEARNED
    return {name: parameter for name, parameter in model.named_parameters() if learned or _POSITIONS not in name}


def learnt_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return those of `stored_parameters` that training and compression may change.

    These are all but Marian's positions and a masked LM's output bias.
    """
    named = model.named_parameters()
    return {name: parameter for name, parameter in named if _POSITIONS not in name and name != _OUTPUT_BIAS}
