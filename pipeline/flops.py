"""Exact matmul FLOPs and parameters of an encoder-decoder Transformer, by part.

A multiply-add counts as two FLOPs. Attention counts the full square (causal masks are applied, not skipped), as the
kernels compute it. Element-wise operations, norms and embedding look-ups are not counted: PyTorch's own counter
(`torch.utils.flop_counter`) leaves them out too, and the tests hold both to the same numbers.
"""

from __future__ import annotations

from pipeline.study import SizeSpec

PARTS = ("encoder_attention", "decoder_attention", "cross_attention", "ffn", "logits")


def forward_flops_by_part(
    size: SizeSpec, *, batch: int, source_length: int, target_length: int, scored_positions: int, vocab_size: int
) -> dict[str, int]:
    """Return the forward FLOPs of one batch, by part.

    `source_length` S and `target_length` T are the padded lengths of a (batch, S) source and a (batch, T) target;
    `scored_positions` is how many target positions the vocabulary projection is computed for (padding is skipped).
    """
    d, f, layers = size.d_model, size.ffn_dim, size.num_layers
    s, t = batch * source_length, batch * target_length

    def attention(queries: int, keys: int, pairs: int) -> int:
        return 2 * d * d * (2 * queries + 2 * keys) + 2 * 2 * d * pairs

    return {
        "encoder_attention": layers * attention(s, s, batch * source_length**2),
        "decoder_attention": layers * attention(t, t, batch * target_length**2),
        "cross_attention": layers * attention(t, s, batch * target_length * source_length),
        "ffn": layers * 2 * 2 * d * f * (s + t),
        "logits": 2 * d * vocab_size * scored_positions,
    }


def forward_flops(
    size: SizeSpec, *, batch: int, source_length: int, target_length: int, scored_positions: int, vocab_size: int
) -> int:
    """Return the forward FLOPs of one batch; shapes as in `forward_flops_by_part`."""
    parts = forward_flops_by_part(
        size,
        batch=batch,
        source_length=source_length,
        target_length=target_length,
        scored_positions=scored_positions,
        vocab_size=vocab_size,
    )
    return sum(parts.values())


def train_flops(
    size: SizeSpec, *, batch: int, source_length: int, target_length: int, scored_positions: int, vocab_size: int
) -> int:
    """Return forward plus backward FLOPs of one batch: every matmul's backward is two matmuls of its size."""
    return 3 * forward_flops(
        size,
        batch=batch,
        source_length=source_length,
        target_length=target_length,
        scored_positions=scored_positions,
        vocab_size=vocab_size,
    )


def decode_flops(size: SizeSpec, *, source_length: int, target_length: int, beam: int, vocab_size: int) -> int:
    """Return the FLOPs of one sentence's beam search with cached keys: the encoder once, `beam` hypotheses of the decoder."""
    d, f, layers, s, t = size.d_model, size.ffn_dim, size.num_layers, source_length, target_length
    encoder = layers * (2 * 4 * d * d * s + 4 * d * s * s + 4 * d * f * s)
    cross_keys = layers * 2 * 2 * d * d * s
    cached_pairs = t * (t + 1) // 2
    decoder = layers * (2 * 4 * d * d * t + 4 * d * cached_pairs + 2 * 2 * d * d * t + 4 * d * t * s + 4 * d * f * t)
    return encoder + cross_keys + beam * (decoder + 2 * d * vocab_size * t)


def inference_flops_per_token(
    size: SizeSpec, *, source_length: float, target_length: float, vocab_size: int, density: float = 1.0
) -> float:
    """Return forward FLOPs a target token at the given mean lengths, unpadded.

    `density` is the share of weights kept: products with pruned weights are not counted (what an engine that skips
    them would do), products between activations always are.
    """
    d, f, layers, s, t = size.d_model, size.ffn_dim, size.num_layers, source_length, target_length
    weights = layers * (2 * d * d * (4 * s + 4 * t + 2 * t + 2 * s) + 4 * d * f * (s + t)) + 2 * d * vocab_size * t
    activations = layers * 4 * d * (s * s + t * t + s * t)
    return (density * weights + activations) / t


def parameters_by_group(size: SizeSpec, *, vocab_size: int) -> dict[str, int]:
    """Return parameter counts by group: embedding (tied with the output), attention, ffn, norm. They sum to the model's total."""
    d, f, layers = size.d_model, size.ffn_dim, size.num_layers
    attention = 4 * (d * d + d)
    return {
        "embedding": vocab_size * d,
        "attention": layers * 3 * attention,
        "ffn": layers * 2 * (2 * d * f + f + d),
        "norm": layers * (2 + 3) * 2 * d + 2 * 2 * d,
    }


def parameters_total(size: SizeSpec, *, vocab_size: int) -> int:
    """Return the number of parameters, the tied embedding counted once."""
    return sum(parameters_by_group(size, vocab_size=vocab_size).values())
