"""Progress bars on a terminal, silence elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any


def progress(
    iterable: Iterable[Any] | None = None, *, total: int | None = None, desc: str = "", unit: str = "it"
) -> Any:
    """Return a tqdm bar over `iterable` (or a manual one of `total` units), disabled when stderr is not a terminal.

    Of several processes that train together (torchrun's RANK numbers them) only the first shows one.
    """
    from tqdm import tqdm

    hidden = not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0"
    return tqdm(iterable, total=total, desc=desc, unit=unit, leave=False, disable=hidden)
