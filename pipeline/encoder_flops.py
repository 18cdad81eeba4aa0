"""Matmul FLOPs and parameters of an encoder with a head: the parts of `pipeline.flops` for masked LMs and classifiers.

The head of a masked LM (a linear layer, GELU, layer norm, then the tied embedding) is computed at the scored positions
alone; that of a classifier (a linear layer, tanh, then one row a class) at the first position of each sentence, which
counts as one scored position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.size import SizeSpec

if TYPE_CHECKING:
    from pipeline.flops import Positions

UNUSED_POSITIONS = 2
"""Rows of the table of positions before the first token's: RoBERTa counts from the padding's id + 1."""


def _outputs(size: SizeSpec, vocab_size: int) -> int:
    return size.num_labels or vocab_size


def forward_flops_by_part(size: SizeSpec, positions: Positions, *, vocab_size: int) -> dict[str, int]:
    """Return the forward FLOPs of a batch, by part."""
    d, a, layers, s = size.d_model, size.attention_dim, size.num_layers, positions.source
    return {
        "encoder_attention": layers * (2 * 4 * d * a * s + 2 * 2 * a * positions.source_pairs),
        "ffn": layers * 2 * 2 * d * size.ffn_dim * s,
        "embedding": 0,
        "head": 2 * d * d * positions.scored,
        "logits": 2 * d * _outputs(size, vocab_size) * positions.scored,
    }


def inference_flops_per_token(size: SizeSpec, *, length: float, vocab_size: int, density: float) -> float:
    """Return forward FLOPs a token of a text of `length` tokens, unpadded; a masked LM's head at each of them."""
    d, a, f, layers = size.d_model, size.attention_dim, size.ffn_dim, size.num_layers
    scored = 1 if size.num_labels else length
    weights = layers * (8 * d * a + 4 * d * f) * length + 2 * d * (d + _outputs(size, vocab_size)) * scored
    return (density * weights + layers * 4 * a * length**2) / length


def parameters_by_group(size: SizeSpec, *, vocab_size: int) -> dict[str, int]:
    """Return parameter counts by group; `embedding` is the vocabulary's table, which a masked LM's output is tied to."""
    d, a, f, layers = size.d_model, size.attention_dim, size.ffn_dim, size.num_layers
    classes = size.num_labels
    return {
        "embedding": vocab_size * d,
        "positions": (size.positions + UNUSED_POSITIONS) * d + d,  # and the one type of token there is
        "attention": layers * (4 * d * a + 3 * a + d),
        "ffn": layers * (2 * d * f + f + d),
        "norm": (2 * layers + 2) * 2 * d,
        "head": d * d + d + (classes * d + classes if classes else 2 * d + vocab_size),
    }


def matrix_weights(size: SizeSpec, *, vocab_size: int) -> int:
    """Return how many parameters are weights of matrices: all but biases and norms."""
    d, rows = size.d_model, vocab_size + size.positions + UNUSED_POSITIONS + 1
    return rows * d + size.num_layers * (4 * d * size.attention_dim + 2 * d * size.ffn_dim) + d * (d + size.num_labels)
