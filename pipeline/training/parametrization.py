"""Maximal-update parametrization (muP): the learning rate tuned at one width serves them all.

Source: Yang et al. 2022 (arXiv 2203.03466), Table 8, for Adam and tied embeddings; m is the width over the base width.
There, hidden matrices learn at 1/m of the rate, and logits are divided by m. Adam does not see the scale of a gradient,
so a constant factor in front of a weight is the same as that factor in its first value and in its rate: the factors
are put there, and the model stays a plain one that any program loads. (Decoupled weight decay shrinks with the rate, so
wider models decay less.)

- Hidden matrices: initial deviation as ever, rate 1/m.
- The embedding enters times sqrt(d), and comes out as logits: rate m^(-1/2), with which both change as much at every width.
- The decoder's last norm, which scales what the logits are made of: first value and rate m^(-1/2).
- An encoder's embeddings are normalised after they are added up: all of its tables start alike and change at that rate too.
  Its last norm before the tied output is the masked-LM head's; a classifier's rows are a hidden matrix's.
- Biases and the other norms: unchanged. Heads keep their number of columns, so attention's scale does too.
"""

from __future__ import annotations

from typing import Any

import torch

from pipeline.models.parameters import learnt_parameters

_LAST_NORMS = ("model.decoder.layer_norm.", "lm_head.layer_norm.")
_EMBEDDINGS = ("model.shared.weight", "roberta_prelayernorm.embeddings.")


def rate_factors(model: Any, *, base_width: int | None) -> dict[str, float]:
    """Return what every parameter's learning rate is multiplied by; 1 for all without a base width."""
    names = learnt_parameters(model)
    if base_width is None:
        return dict.fromkeys(names, 1.0)
    ratio = model.config.hidden_size / base_width
    factors = {}
    for name, parameter in names.items():
        table = name.startswith(_EMBEDDINGS) and parameter.ndim == 2
        if table or name.startswith(_LAST_NORMS):
            factors[name] = ratio**-0.5
        else:
            factors[name] = 1 / ratio if parameter.ndim == 2 else 1.0
    return factors


@torch.no_grad()
def scale_initial(model: Any, *, base_width: int | None) -> None:
    """Give a freshly built model muP's initial values in place; nothing without a base width."""
    for name, parameter in learnt_parameters(model).items() if base_width is not None else ():
        if name.startswith(_LAST_NORMS) and name.endswith(".weight"):
            parameter.mul_((model.config.hidden_size / base_width) ** -0.5)
