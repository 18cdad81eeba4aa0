"""The stated rule that gives each size its peak learning rate."""

from __future__ import annotations

import math

from pipeline.study import LearningRate


def peak_rate(rule: LearningRate, *, d_model: int, num_layers: int) -> float:
    """Return a size's peak learning rate: log-log linear between the tuned widths, constant beyond the outermost.

    Under muP it is the base width's for all; pipeline/training/parametrization.py does the rest.
    """
    widths = sorted(rule.tuned)
    if rule.mup_base_width is not None:
        rate = rule.tuned[rule.mup_base_width]
    elif d_model <= widths[0]:
        rate = rule.tuned[widths[0]]
    elif d_model >= widths[-1]:
        rate = rule.tuned[widths[-1]]
    else:
        upper = next(width for width in widths if width >= d_model)
        lower = max(width for width in widths if width <= d_model)
        share = 0.0 if upper == lower else math.log(d_model / lower) / math.log(upper / lower)
        rate = math.exp((1 - share) * math.log(rule.tuned[lower]) + share * math.log(rule.tuned[upper]))
    return rate * (2 / num_layers) ** rule.depth_exponent
