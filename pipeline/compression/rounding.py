"""Row-wise min-max rounding of a training model's weights, on the device and after every step.

The grid is that of `pipeline.compression.quantization`, whose functions make files from NumPy matrices; these write into
the weights that a forward pass reads, in as few passes over them as they can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from pipeline.training.weights import FlatWeights


def half_below(values: Tensor) -> Tensor:
    """Return the largest fp16 numbers that are not above `values` (float64), as float64."""
    nearest = values.half()
    pattern = nearest.view(torch.int16)
    # The next number down: one pattern less above zero, one more below it, and the first negative one from zero.
    down = torch.where(pattern > 0, pattern - 1, torch.where(nearest == 0, -0x7FFF, pattern + 1)).to(torch.int16)
    return torch.where(nearest.double() > values, down.view(torch.float16), nearest).double()


def row_grid(low: Tensor, high: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the minimum and the step (R,), fp32 but in fp16's range, of rows from `low` to `high` in `levels` steps."""
    minimum = half_below(low.double())
    step = -half_below((minimum - high.double()) / levels)
    return minimum.float(), step.float()


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Matrices of as many columns and bits that lie side by side; rows are those of all."""

    latent: Tensor  # (R, C)
    rounded: Tensor  # (R, C)
    rows: slice  # of all blocks' rows
    kept: Tensor | None = None  # (R, C) 1 where kept
    beyond: Tensor | None = None  # (R, C) infinite where pruned, else 0


class RowRounding:
    """Makes a model's weights from its latent ones: matrices rounded row by row, the rest as it is, pruned weights 0.

    Source: Jacob et al. 2018 (arXiv 1712.05877), section 3, with a minimum and a step a row instead of a range a tensor
    that is averaged over steps: only weights are rounded here, and their range is known.
    """

    def __init__(self, weights: FlatWeights, masks: Mapping[str, Tensor], *, bits: Mapping[str, int]) -> None:
        """Round the matrices named in `bits`, each to so many; weights that are False in `masks` count in no row's range."""
        self._blocks: list[_Block] = []
        self._copied: list[tuple[Tensor, Tensor]] = []
        mask = weights.flat_mask(masks) if masks else None
        levels: list[Tensor] = []
        start = rows = 0
        for alike, names in groupby(weights.shapes, key=lambda name: _columns_and_bits(name, weights, bits)):
            span = slice(start, start + sum(weights.shapes[name].numel() for name in names))
            start = span.stop
            if alike is None:
                self._copied.append((weights.latent[span], weights.master[span]))
                continue
            columns, width = alike
            latent = weights.latent[span].view(-1, columns)
            kept = None if mask is None else mask[span].view(-1, columns)
            block = _Block(
                latent=latent,
                rounded=weights.master[span].view(-1, columns),
                rows=slice(rows, rows + len(latent)),
                kept=kept,
                beyond=None if kept is None else torch.where(kept > 0, 0.0, torch.inf),
            )
            self._blocks.append(block)
            rows = block.rows.stop
            levels.append(latent.new_full((len(latent),), 2**width - 1, dtype=torch.float64))
        self._levels = torch.cat(levels) if levels else weights.master.new_zeros(0, dtype=torch.float64)
        self._low, self._high = weights.master.new_zeros(2, rows).unbind(0)

    @torch.no_grad()
    def __call__(self) -> None:
        """Write the weights (P,)."""
        for latent, weights in self._copied:
            weights.copy_(latent)
        for block in self._blocks:
            latent, rounded, rows = block.latent, block.rounded, block.rows
            lowest = latent if block.beyond is None else torch.add(latent, block.beyond, out=rounded)
            torch.amin(lowest, 1, out=self._low[rows])
            highest = latent if block.beyond is None else torch.sub(latent, block.beyond, out=rounded)
            torch.amax(highest, 1, out=self._high[rows])
        empty = self._low > self._high
        minimum, step = row_grid(self._low.masked_fill(empty, 0.0), self._high.masked_fill(empty, 0.0), self._levels)
        divisor = torch.where(step > 0, step, 1.0)
        for block in self._blocks:
            start, scale, over = (values[block.rows, None] for values in (minimum, step, divisor))
            # No code can leave the grid, which spans the row: the minimum was rounded down, and the step up.
            codes = torch.sub(block.latent, start, out=block.rounded).div_(over).round_()
            codes.mul_(scale).add_(start)
            if block.kept is not None:
                codes.mul_(block.kept)


def _columns_and_bits(name: str, weights: FlatWeights, bits: Mapping[str, int]) -> tuple[int, int] | None:
    return (weights.shapes[name][1], bits[name]) if name in bits else None
