"""Pre-norm Transformer sublayers on rows of positions, their gradients written out by hand.

A row is one position of one sentence; the residual stream is a matrix (R, d) of them in fp32, matmuls run in the
weights' own format. On small models the time goes into everything but the matmuls, so each sublayer is one node of
autograd that allocates little, multiplies by fused weights, and copies only where heads must be split.

Formulas: Vaswani et al. 2017, Section 3; layer norm before each sublayer (Xiong et al. 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_EPSILON = 1e-5  # of layer norms, as in transformers
_LEAST_SUM = 1e-20  # of attention's exponentials, where the largest of all keys' is 1


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the positions of a padded (batch, length) lie: in the first of `rows` rows, sentence by sentence; the rest is 0."""

    batch: int
    length: int
    rows: int

    @property
    def used(self) -> int:
        """The number of rows that are positions."""
        return self.batch * self.length


def _split(matrix: Tensor, groups: int, heads: int, layout: Layout) -> Tensor:
    """Return (R, groups x heads x D) as fp32 (groups, batch x heads, length, D)."""
    width = matrix.shape[1] // (groups * heads)
    parts = matrix.new_empty((groups, layout.batch, heads, layout.length, width), dtype=torch.float32)
    rows = matrix[: layout.used].view(layout.batch, layout.length, groups, heads, width)
    parts.copy_(rows.permute(2, 0, 3, 1, 4))
    return parts.view(groups, layout.batch * heads, layout.length, width)


def _merge(parts: Tensor, heads: int, layout: Layout, dtype: torch.dtype) -> Tensor:
    """Return fp32 (groups, batch x heads, length, D) as (R, groups x heads x D): `_split` undone."""
    groups, width = parts.shape[0], parts.shape[3]
    matrix = parts.new_empty((layout.rows, groups * heads * width), dtype=dtype)
    matrix[layout.used :].zero_()
    rows = matrix[: layout.used].view(layout.batch, layout.length, groups, heads, width)
    rows.copy_(parts.view(groups, layout.batch, heads, layout.length, width).permute(1, 3, 0, 2, 4))
    return matrix


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return attention's output, its unnormalised weights and their sums; q is scaled, `mask` 1 on what may be seen.

    The mask multiplies the exponentials: exp of minus infinity takes the vector library's slow path. Only where a hidden key
    scores so far above all seen ones that next to nothing is left of these are they subtracted from their own maximum.
    """
    weights = torch.bmm(q, k.transpose(1, 2))
    weights.sub_(weights.amax(-1, keepdim=True)).exp_()
    if mask is not None:
        weights.mul_(mask)
    sums = weights.sum(-1, keepdim=True)
    if mask is not None and float(sums.amin()) < _LEAST_SUM:
        weights = torch.bmm(q, k.transpose(1, 2)).add_(mask.log())
        weights.sub_(weights.amax(-1, keepdim=True)).exp_()
        sums = weights.sum(-1, keepdim=True)
    return torch.bmm(weights, v).div_(sums), weights, sums


def _attend_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, attended: Tensor, weights: Tensor, sums: Tensor,
    *, by_q: Tensor, by_k: Tensor, by_v: Tensor,
) -> None:  # fmt: skip
    """Write the gradients of `_attend`, by q before it was scaled, by k and by v."""
    gradient = gradient / sums
    inner = torch.bmm(gradient, v.transpose(1, 2))
    inner.sub_((gradient * attended).sum(-1, keepdim=True)).mul_(weights)
    torch.bmm(inner, k, out=by_q).mul_(1 / math.sqrt(q.shape[2]))
    torch.bmm(inner.transpose(1, 2), q, out=by_k)
    torch.bmm(weights.transpose(1, 2), gradient, out=by_v)


def _norm(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return the layer norm of fp32 rows in `dtype`, and the rows' means and inverse deviations."""
    normed, mean, inverse = torch.native_layer_norm(x, (x.shape[1],), weight, bias, _EPSILON)
    return normed.to(dtype), mean, inverse


def _norm_backward(
    gradient: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `_norm` by its rows, weight and bias."""
    return torch.ops.aten.native_layer_norm_backward(
        gradient.float(), x, (x.shape[1],), mean, inverse, weight, bias, [True, True, True]
    )


def _relu_(x: Tensor) -> Tensor:
    """Set the negative elements to 0 in place."""
    if x.dtype == torch.bfloat16:
        x.view(torch.int16).clamp_min_(0)  # the sign bit is the same; integers are compared 10 times faster
        return x
    return x.relu_()


def _relu_backward_(gradient: Tensor, activated: Tensor) -> Tensor:
    """Set the gradient to 0 in place where the activated value is."""
    if gradient.dtype == torch.bfloat16:
        gradient.view(torch.int16).mul_(activated.view(torch.int16).sign())
        return gradient
    return gradient.mul_(activated.sign())


def _dropout_(x: Tensor, probability: float) -> Tensor | None:
    """Zero a random share of `x` in place, without the scale of what stays; return what to multiply a gradient by.

    Sixteen random bits an element, four elements a draw: random numbers would be the costliest part of a small step.
    """
    if not probability:
        return None
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    kept = draws.view(torch.int16)[: x.numel()].view(x.shape)
    threshold = round(probability * 65536) - 32768
    kept = kept.clamp_(threshold - 1, threshold).sub_(threshold - 1)  # 1 from the threshold on, else 0
    _mask_(x, kept)
    return kept


def _mask_(x: Tensor, kept: Tensor) -> Tensor:
    if x.dtype == torch.bfloat16:
        x.view(torch.int16).mul_(kept)  # bits times 1 or 0
        return x
    return x.mul_(kept)


def _add_residual(x: Tensor, y: Tensor, probability: float) -> tuple[Tensor, Tensor | None]:
    """Return x + dropout(y), and the dropout's mask; `y` is overwritten."""
    kept = _dropout_(y, probability)
    return x.add(y, alpha=1 / (1 - probability)), kept


def _residual_gradient(gradient: Tensor, kept: Tensor | None, probability: float, dtype: torch.dtype) -> Tensor:
    """Return what reaches y through x + dropout(y), in the matmuls' format."""
    if kept is None:
        return gradient.to(dtype)
    return _mask_((gradient / (1 - probability)).to(dtype), kept)


class Embed(torch.autograd.Function):
    """Rows of a table, scaled, plus positions, with dropout: the start of the residual stream."""

    @staticmethod
    def forward(
        ctx: Any, table: Tensor, ids: Tensor, positions: Tensor, scale: float, layout: Layout, dropout: float
    ) -> Tensor:
        """Return (R, d) from a table (V, d), ids (R,) and positions (length, d)."""
        x = table.index_select(0, ids).mul_(scale)
        x[: layout.used].view(layout.batch, layout.length, -1).add_(positions)
        ctx.kept = _dropout_(x, dropout)
        ctx.save_for_backward(ids)
        ctx.scale, ctx.entries, ctx.dropout = scale, table.shape[0], dropout
        return x if ctx.kept is None else x.div_(1 - dropout)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the rows' gradients in fp32 as a sparse table: whoever sums it up touches the rows that were looked up."""
        (ids,) = ctx.saved_tensors
        gradient = _residual_gradient(gradients[0] * ctx.scale, ctx.kept, ctx.dropout, torch.float32)
        shape = (ctx.entries, gradient.shape[1])
        table = torch.sparse_coo_tensor(ids.unsqueeze(0), gradient, shape, check_invariants=False)
        return table, None, None, None, None, None


class Norm(torch.autograd.Function):
    """The layer norm that ends a stack, in the matmuls' format."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the norm of (R, d)."""
        normed, mean, inverse = _norm(x, weight, bias, dtype)
        ctx.save_for_backward(x, mean, inverse, weight, bias)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by rows, weight and bias."""
        return *_norm_backward(gradients[0], *ctx.saved_tensors), None


def _attention_out(
    ctx: Any, x: Tensor, normed: tuple[Tensor, Tensor, Tensor], norm: tuple[Tensor, Tensor], in_weight: Tensor,
    qkv: tuple[Tensor, Tensor, Tensor], out_weight: Tensor, out_bias: Tensor, heads: int, layout: Layout,
    mask: Tensor | None, dropout: float,
) -> Tensor:  # fmt: skip
    """Return x + dropout(W_o attention(q, k, v)), and save what `_attention_in` needs; q is scaled here, in place."""
    q, k, v = qkv
    q.mul_(1 / math.sqrt(q.shape[2]))
    attended, weights, sums = _attend(q, k, v, mask)
    merged = _merge(attended.unsqueeze(0), heads, layout, in_weight.dtype)
    out, kept = _add_residual(x, torch.addmm(out_bias, merged, out_weight.t()), dropout)
    ctx.save_for_backward(x, *normed, *norm, in_weight, out_weight, q, k, v, attended, weights, sums, merged, kept)
    ctx.heads, ctx.layout, ctx.dropout = heads, layout, dropout
    return out


def _attention_in(
    ctx: Any, gradient: Tensor, by_q: Tensor, by_k: Tensor, by_v: Tensor, queries: Tensor
) -> tuple[Tensor, ...]:
    """Write the gradients by q, k and v; return those by x, norm, input and output projections, in `forward`'s order.

    `queries` holds the part of them, by_q and what lies with it, that came out of the input projection.
    """
    (
        x, normed, mean, inverse, norm_weight, norm_bias, in_weight, out_weight, q, k, v, attended, weights, sums, merged, kept,
    ) = ctx.saved_tensors  # fmt: skip
    heads, layout, dtype = ctx.heads, ctx.layout, in_weight.dtype
    residual = _residual_gradient(gradient, kept, ctx.dropout, dtype)
    inner = _split(residual @ out_weight, 1, heads, layout)[0]
    _attend_backward(inner, q, k, v, attended, weights, sums, by_q=by_q, by_k=by_k, by_v=by_v)
    projected = _merge(queries, heads, layout, dtype)
    by_x, by_norm_weight, by_norm_bias = _norm_backward(projected @ in_weight, x, mean, inverse, norm_weight, norm_bias)
    return (
        by_x.add_(gradient), by_norm_weight, by_norm_bias, projected.t() @ normed, projected.sum(0),
        residual.t() @ merged, residual.sum(0),
    )  # fmt: skip


class SelfAttention(torch.autograd.Function):
    """x + dropout(W_o attention(W_qkv norm(x)))."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm_weight: Tensor, norm_bias: Tensor, qkv_weight: Tensor, qkv_bias: Tensor,
        out_weight: Tensor, out_bias: Tensor, heads: int, layout: Layout, mask: Tensor | None, dropout: float,
    ) -> Tensor:  # fmt: skip
        """Return (R, d); the mask is 1 where a query (row) may see a key (column), broadcast over (batch x heads, L, L)."""
        normed = _norm(x, norm_weight, norm_bias, qkv_weight.dtype)
        q, k, v = _split(torch.addmm(qkv_bias, normed[0], qkv_weight.t()), 3, heads, layout).unbind(0)
        return _attention_out(
            ctx, x, normed, (norm_weight, norm_bias), qkv_weight, (q, k, v), out_weight, out_bias, heads, layout, mask, dropout
        )  # fmt: skip

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by x and by every weight and bias."""
        q = ctx.saved_tensors[8]
        parts = q.new_empty((3, *q.shape))
        by_q, by_k, by_v = parts.unbind(0)
        return *_attention_in(ctx, gradients[0], by_q, by_k, by_v, parts), None, None, None, None


class KeysAndValues(torch.autograd.Function):
    """What every decoder layer's cross-attention reads: the keys and values of all layers in one projection."""

    @staticmethod
    def forward(
        ctx: Any, memory: Tensor, weight: Tensor, bias: Tensor, groups: int, heads: int, layout: Layout
    ) -> Tensor:
        """Return fp32 (groups, batch x heads, length, D) from memory (R, d); groups is k and v of each layer in turn."""
        ctx.save_for_backward(memory, weight)
        ctx.heads, ctx.layout = heads, layout
        return _split(torch.addmm(bias, memory, weight.t()), groups, heads, layout)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by memory, weight and bias."""
        memory, weight = ctx.saved_tensors
        gradient = _merge(gradients[0].contiguous(), ctx.heads, ctx.layout, weight.dtype)
        return gradient @ weight, gradient.t() @ memory, gradient.sum(0), None, None, None


class CrossAttention(torch.autograd.Function):
    """x + dropout(W_o attention(W_q norm(x), k, v))."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm_weight: Tensor, norm_bias: Tensor, q_weight: Tensor, q_bias: Tensor, out_weight: Tensor,
        out_bias: Tensor, k: Tensor, v: Tensor, heads: int, layout: Layout, mask: Tensor | None, dropout: float,
    ) -> Tensor:  # fmt: skip
        """Return (R, d) from x (R, d) and fp32 keys and values (batch x heads, S, D)."""
        normed = _norm(x, norm_weight, norm_bias, q_weight.dtype)
        q = _split(torch.addmm(q_bias, normed[0], q_weight.t()), 1, heads, layout)[0]
        return _attention_out(
            ctx, x, normed, (norm_weight, norm_bias), q_weight, (q, k, v), out_weight, out_bias, heads, layout, mask, dropout
        )  # fmt: skip

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by x, by every weight and bias, and by keys and values."""
        by_q, by_k, by_v = (torch.empty_like(part) for part in ctx.saved_tensors[8:11])
        by_the_rest = _attention_in(ctx, gradients[0], by_q, by_k, by_v, by_q.unsqueeze(0))
        return *by_the_rest, by_k, by_v, None, None, None, None


class FeedForward(torch.autograd.Function):
    """x + dropout(W_2 relu(W_1 norm(x)))."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm_weight: Tensor, norm_bias: Tensor, in_weight: Tensor, in_bias: Tensor,
        out_weight: Tensor, out_bias: Tensor, dropout: float,
    ) -> Tensor:  # fmt: skip
        """Return (R, d)."""
        normed, mean, inverse = _norm(x, norm_weight, norm_bias, in_weight.dtype)
        hidden = _relu_(torch.addmm(in_bias, normed, in_weight.t()))
        out, kept = _add_residual(x, torch.addmm(out_bias, hidden, out_weight.t()), dropout)
        ctx.save_for_backward(x, norm_weight, norm_bias, in_weight, out_weight, normed, mean, inverse, hidden, kept)
        ctx.dropout = dropout
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by x and by every weight and bias."""
        x, norm_weight, norm_bias, in_weight, out_weight, normed, mean, inverse, hidden, kept = ctx.saved_tensors
        (gradient,) = gradients
        branch = _residual_gradient(gradient, kept, ctx.dropout, in_weight.dtype)
        inner = _relu_backward_(branch @ out_weight, hidden)
        by_x, by_norm_weight, by_norm_bias = _norm_backward(inner @ in_weight, x, mean, inverse, norm_weight, norm_bias)
        return (
            by_x.add_(gradient), by_norm_weight, by_norm_bias, inner.t() @ normed, inner.sum(0),
            branch.t() @ hidden, branch.sum(0), None,
        )  # fmt: skip
