"""What a training step computes beside its matmuls: an estimate of the element-wise FLOPs, for scale.

Each addition, multiplication, division, comparison, root, exponential or logarithm of one element is one FLOP; copies and
look-ups are none. The terms are those of pipeline/models/seq2seq.py (pre-norm, eager attention), of the cross-entropy in
pipeline/training/objectives.py (whose gradient counts as backward, though it is made on the way forward), and of AdamW
after clipping.
"""

from __future__ import annotations

from pipeline.flops import Positions, parameters_total
from pipeline.size import SizeSpec

_UPDATE = (
    14 + 3
)  # FLOPs a learnt parameter: AdamW's decay, moments, root and step; the square, sum and scale of clipping


def elementwise_flops(size: SizeSpec, positions: Positions, *, vocab_size: int, dropout: float) -> dict[str, int]:
    """Return the element-wise FLOPs of one training step on a batch: ``forward``, ``backward`` and ``update``."""
    if size.architecture == "encoder":
        return _encoder_flops(size, positions, vocab_size=vocab_size, dropout=dropout)
    d, a, f, layers = size.d_model, size.attention_dim, size.ffn_dim, size.num_layers
    s, t = positions.source, positions.target
    scores = layers * size.num_heads * (positions.source_pairs + positions.target_pairs + positions.cross_pairs)
    branches = layers * d * (2 * s + 3 * t)  # outputs of attention and FFN
    ends = d * (s + t)
    terms = [  # elements, FLOPs of each forward, backward
        (ends, 2, 2),  # embedding: scale, add the position; scale, sum by token
        (branches + ends, 8, 14),  # layer norm: mean, variance, normalise, scale, shift; three gradients
        (layers * ((5 * a + d) * s + (4 * a + 2 * d) * t + (f + d) * (s + t)), 1, 1),  # bias: add; sum
        (layers * d * (4 * s + 2 * t), 0, 1),  # inputs that several projections read: sum their gradients
        (positions.source_pairs + positions.target_pairs + positions.cross_pairs, 2, 0),  # masks, made once a batch
        (scores, 7, 5),  # scores: scale, mask, maximum, subtract, exponential, sum, divide; softmax's 4, scale
        (layers * f * (s + t), 1, 1),  # ReLU: compare
        (branches, 1, 1),  # residual: add; sum
        (branches + ends if dropout else 0, 3, 1),  # dropout: draw, scale, multiply; multiply
        (vocab_size * positions.scored, 0, 5),  # softmax, which is the loss's gradient but for one entry a row
        (d * positions.scored, 2, 2),  # mean logits; label smoothing, scale
        (
            vocab_size * d,
            1,
            5,
        ),  # output weights: mean; sum and smoothing, scale, and the gradients of three uses summed
    ]
    return _summed(terms, learnt=parameters_total(size, vocab_size=vocab_size))


def _encoder_flops(size: SizeSpec, positions: Positions, *, vocab_size: int, dropout: float) -> dict[str, int]:
    """Return the same of an encoder, trained without label smoothing: its sublayers are an encoder-decoder's, its ends its own."""
    d, a, f, layers = size.d_model, size.attention_dim, size.ffn_dim, size.num_layers
    s, scored, outputs = positions.source, positions.scored, size.num_labels or vocab_size
    branches = layers * d * 2 * s
    ends = d * s
    terms = [  # elements, FLOPs of each forward, backward
        (ends, 2, 3),  # embedding: add the position and the type; three sums
        (s, 6, 0),  # the mask, and positions counted past padding
        (branches + 2 * ends, 8, 14),  # layer norm, that of the embedding and the last one too
        (layers * (3 * a + d + f + d) * s, 1, 1),  # bias: add; sum
        (layers * d * s, 0, 2),  # q, k and v read one input: sum their gradients
        (layers * size.num_heads * positions.source_pairs, 7, 5),  # scores, as of an encoder-decoder
        (layers * f * s, 1, 1),  # ReLU: compare
        (branches, 1, 1),  # residual: add; sum
        (branches + ends if dropout else 0, 3, 1),  # dropout, as of an encoder-decoder
        (outputs * scored, 0, 5),  # softmax, which is the loss's gradient but for one entry a row
    ]
    if size.num_labels:
        terms += [
            (d * scored, 4, 5),  # bias, tanh, mean logits; sum, tanh's 3, scale
            (2 * d * scored if dropout else 0, 3, 1),
        ]
    else:
        terms += [
            (
                d * scored,
                16,
                27,
            ),  # bias, GELU's 5, layer norm, mean logits; sum, GELU's 11, layer norm, back into place
            (ends, 0, 1),  # the loss's gradient: scale, at every position
            (
                vocab_size * d,
                1,
                2,
            ),  # output weights: mean; scale, and the gradients of a tied embedding's two uses summed
        ]
    output_bias = 0 if size.num_labels else vocab_size  # of a masked LM, which stays 0
    return _summed(terms, learnt=parameters_total(size, vocab_size=vocab_size) - output_bias)


def _summed(terms: list[tuple[int, int, int]], *, learnt: int) -> dict[str, int]:
    return {
        "forward": sum(count * forward for count, forward, _ in terms),
        "backward": sum(count * backward for count, _, backward in terms),
        "update": _UPDATE * learnt,
    }
