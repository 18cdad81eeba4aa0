"""Progress bars on a terminal and, where wished, in a log; silence elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

LOG_SECONDS = 5.0
"""After how long, and then how often, a bar is written where it goes to a log."""


def progress(
    iterable: Iterable[Any] | None = None, *, total: int | None = None, desc: str = "", unit: str = "it"
) -> Any:
    """Return a tqdm bar over `iterable` (or a manual one of `total` units), hidden when stderr is not a terminal.

    With TLC_PROGRESS=1 it is shown in a log too, where `tlc reproduce` reads it. Of several processes that train together
    (torchrun's RANK numbers them) only the first shows one.
    """
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    hidden = not (terminal or os.environ.get("TLC_PROGRESS") == "1") or os.environ.get("RANK", "0") != "0"
    pace: dict[str, Any] = (
        {} if terminal else {"delay": LOG_SECONDS, "mininterval": LOG_SECONDS, "maxinterval": LOG_SECONDS}
    )
    return tqdm(iterable, total=total, desc=desc, unit=unit, leave=False, disable=hidden, **pace)
