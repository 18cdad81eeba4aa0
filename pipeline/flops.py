"""Exact matmul FLOPs and parameters of a Transformer, by part, forward and backward apart.

An encoder-decoder's parts stand here, those of an encoder in pipeline/encoder_flops.py; every function takes either.

A multiply-add counts as two FLOPs. Attention counts the full square (causal masks are applied, not skipped), as the
kernels compute it; where heads were pruned, all of them together are narrower than the model (`attention_dim`).
Element-wise work is not counted here (pipeline/elementwise.py estimates it): PyTorch's own counter
(`torch.utils.flop_counter`) leaves it out too, and the tests hold both to the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import encoder_flops
from pipeline.size import SizeSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Positions:
    """What a batch computes, summed over its sentences: positions, and pairs of a query and a key that attend."""

    source: int
    target: int
    scored: int  # positions that the output projection is computed for: of the target, or of an encoder's own
    source_pairs: int  # encoder self-attention
    target_pairs: int  # decoder self-attention
    cross_pairs: int

    @classmethod
    def padded(cls, *, batch: int, source_length: int, target_length: int, scored: int) -> Positions:
        """Return what the device computes for a (batch, S) source and a (batch, T) target; `scored` excludes padding."""
        return cls(
            source=batch * source_length,
            target=batch * target_length,
            scored=scored,
            source_pairs=batch * source_length**2,
            target_pairs=batch * target_length**2,
            cross_pairs=batch * target_length * source_length,
        )

    @classmethod
    def unpadded(cls, source_lengths: NDArray[np.int64], target_lengths: NDArray[np.int64]) -> Positions:
        """Return what sentences of these lengths (B,) need, special tokens counted: the sum of each one alone."""
        return cls(
            source=int(source_lengths.sum()),
            target=int(target_lengths.sum()),
            scored=int(target_lengths.sum()),
            source_pairs=int(source_lengths @ source_lengths),
            target_pairs=int(target_lengths @ target_lengths),
            cross_pairs=int(target_lengths @ source_lengths),
        )


def forward_flops_by_part(size: SizeSpec, positions: Positions, *, vocab_size: int) -> dict[str, int]:
    """Return the forward FLOPs of a batch, by part; an embedding is looked up, which takes no matmul."""
    if size.architecture == "encoder":
        return encoder_flops.forward_flops_by_part(size, positions, vocab_size=vocab_size)
    d, a, layers, s, t = size.d_model, size.attention_dim, size.num_layers, positions.source, positions.target

    def attention(queries: int, keys: int, pairs: int) -> int:
        return layers * (2 * d * a * (2 * queries + 2 * keys) + 2 * 2 * a * pairs)

    return {
        "encoder_attention": attention(s, s, positions.source_pairs),
        "decoder_attention": attention(t, t, positions.target_pairs),
        "cross_attention": attention(t, s, positions.cross_pairs),
        "ffn": layers * 2 * 2 * d * size.ffn_dim * (s + t),
        "embedding": 0,
        "logits": 2 * d * vocab_size * positions.scored,
    }


def backward_flops_by_part(size: SizeSpec, positions: Positions, *, vocab_size: int) -> dict[str, int]:
    """Return the backward FLOPs of a batch, by part: every matmul's two gradients are a matmul of its size each.

    None can be spared: the first layers read trained embeddings, so their inputs need a gradient like any other's.
    """
    forward = forward_flops_by_part(size, positions, vocab_size=vocab_size)
    return {part: 2 * flops for part, flops in forward.items()}


def forward_flops(size: SizeSpec, positions: Positions, *, vocab_size: int) -> int:
    """Return the forward FLOPs of a batch; all that a teacher costs."""
    return sum(forward_flops_by_part(size, positions, vocab_size=vocab_size).values())


def train_flops(size: SizeSpec, positions: Positions, *, vocab_size: int) -> int:
    """Return forward plus backward FLOPs of a batch."""
    backward = backward_flops_by_part(size, positions, vocab_size=vocab_size)
    return forward_flops(size, positions, vocab_size=vocab_size) + sum(backward.values())


def decode_flops(size: SizeSpec, *, source_length: int, target_length: int, beam: int, vocab_size: int) -> int:
    """Return the FLOPs of one sentence's beam search with cached keys: the encoder once, `beam` hypotheses of the decoder."""
    d, a, f, layers = size.d_model, size.attention_dim, size.ffn_dim, size.num_layers
    s, t = source_length, target_length
    encoder = layers * (2 * 4 * d * a * s + 4 * a * s * s + 4 * d * f * s)
    cross_keys = layers * 2 * 2 * d * a * s
    cached_pairs = t * (t + 1) // 2
    decoder = layers * (2 * 4 * d * a * t + 4 * a * cached_pairs + 2 * 2 * d * a * t + 4 * a * t * s + 4 * d * f * t)
    return encoder + cross_keys + beam * (decoder + 2 * d * vocab_size * t)


def inference_flops_per_token(
    size: SizeSpec, *, source_length: float, target_length: float, vocab_size: int, density: float = 1.0
) -> float:
    """Return forward FLOPs a target token at the given mean lengths, unpadded; of an encoder, a source token.

    `density` is the share of weights kept: products with pruned weights are not counted (what an engine that skips
    them would do), products between activations always are.
    """
    if size.architecture == "encoder":
        return encoder_flops.inference_flops_per_token(
            size, length=source_length, vocab_size=vocab_size, density=density
        )
    d, a, f, layers = size.d_model, size.attention_dim, size.ffn_dim, size.num_layers
    s, t = source_length, target_length
    weights = layers * (2 * d * a * (4 * s + 4 * t + 2 * t + 2 * s) + 4 * d * f * (s + t)) + 2 * d * vocab_size * t
    activations = layers * 4 * a * (s * s + t * t + s * t)
    return (density * weights + activations) / t


def parameters_by_group(size: SizeSpec, *, vocab_size: int) -> dict[str, int]:
    """Return parameter counts by group: embedding (tied with the output), attention, ffn, norm. They sum to the model's total."""
    if size.architecture == "encoder":
        return encoder_flops.parameters_by_group(size, vocab_size=vocab_size)
    d, a, f, layers = size.d_model, size.attention_dim, size.ffn_dim, size.num_layers
    attention = 4 * d * a + 3 * a + d
    return {
        "embedding": vocab_size * d,
        "attention": layers * 3 * attention,
        "ffn": layers * 2 * (2 * d * f + f + d),
        "norm": layers * (2 + 3) * 2 * d + 2 * 2 * d,
    }


def parameters_total(size: SizeSpec, *, vocab_size: int) -> int:
    """Return the number of parameters, the tied embedding counted once."""
    return sum(parameters_by_group(size, vocab_size=vocab_size).values())


def matrix_weights(size: SizeSpec, *, vocab_size: int) -> int:
    """Return how many parameters are weights of matrices: all but biases and norms."""
    if size.architecture == "encoder":
        return encoder_flops.matrix_weights(size, vocab_size=vocab_size)
    d, inner = size.d_model, size.attention_dim
    return vocab_size * d + size.num_layers * (3 * 4 * d * inner + 2 * 2 * d * size.ffn_dim)
