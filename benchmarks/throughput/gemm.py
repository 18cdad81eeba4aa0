"""The processor's peak: bf16 products of square matrices that stay in its cache, one thread a process."""

from __future__ import annotations

import torch

from throughput.turns import Turns

WIDTH = 1024
PRODUCTS = 20
"""In a step: together some tens of milliseconds where bf16 is multiplied in hardware."""


def main() -> None:
    """Take turns until there are no more."""
    turns, _ = Turns.join()
    torch.set_num_threads(1)
    left, right = (torch.randn(WIDTH, WIDTH, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(left)
    while True:
        products = turns.wait() * PRODUCTS
        for _ in range(products):
            torch.mm(left, right, out=out)
        turns.report(flops=products * 2 * WIDTH**3)


if __name__ == "__main__":
    main()
