"""Models spread over the cores: a process and a thread each."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any, TypeVar

from pipeline.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def _begin() -> None:
    """Leave Ctrl-C to the process that waits for this one, and take one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)


def on_every_core(
    work: Callable[[Item], Result], items: Iterable[Item], *, desc: str, unit: str = "model"
) -> Iterator[tuple[Item, Result]]:
    """Yield every item with what `work` returns for it, in the order in which they are done, under a progress bar.

    `work` and the items travel to fresh processes. The first error is raised here and ends the rest.
    """
    waiting = list(items)
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=get_context("spawn"), initializer=_begin) as pool:
        try:
            futures: dict[Any, Item] = {pool.submit(work, item): item for item in waiting}
            for future in progress(as_completed(futures), total=len(waiting), desc=desc, unit=unit):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
