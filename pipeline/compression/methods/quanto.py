"""optimum-quanto's 8-, 4- or 2-bit weights: an implementation that is not ours, to check `uniform` against.

What it does: optimum-quanto replaces every linear layer by one whose weights are rounded, 8 bits symmetric around 0 with
one step a row, 4 and 2 bits between minimum and maximum of a group of up to 128 columns. The embedding, which is also the
output projection, norms and biases stay in fp32. The file is optimum-quanto's own, its steps in fp32.
Source: optimum-quanto 0.2.7 (github.com/huggingface/optimum-quanto), whose scheme at 8 bits is that of Jacob et al. 2017
(arXiv 1712.05877), section 2, with a zero point of 0.
When it helps: as a cross-check. At 8 bits the model must behave like ours with `embedding_bits: 32`.
When not: for a small file. The embedding in fp32 is most of a small model, and fp32 steps cost twice ours. Nothing runs
faster on a CPU. It takes no masks and no ranges of activations.
"""

from __future__ import annotations

import torch

from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.quantization import relative_error
from pipeline.errors import StudyError
from pipeline.recipes import FP32_BITS, Quanto


def apply(candidate: Candidate, step: Quanto, bench: Bench) -> None:
    """Make the candidate's linear layers optimum-quanto's; nothing is charged, for no data are used."""
    from pipeline.compression.quanto_files import dense_weights, freeze, linear_layers, quantize_layers

    if step.bits == FP32_BITS:
        return
    model = candidate.model
    layers = linear_layers(model)
    before = dense_weights(model)
    if not all(torch.isfinite(weight).all() for weight in before.values()):
        raise StudyError("weights are not finite: the model has diverged; train it again at a lower learning rate")
    quantize_layers(model, layers, step.bits)
    freeze(model)
    after = dense_weights(model)
    for layer in layers:
        name = f"{layer}.weight"
        candidate.weight_errors[name] = relative_error(before[name].numpy(), after[name].numpy())
    candidate.quanto_bits = step.bits
