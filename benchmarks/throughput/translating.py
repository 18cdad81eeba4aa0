"""What every translating side does with its turns: all sentences, in batches of the size that the turn is given.

Only the standard library is imported here, because fairseq's environment runs this file too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from throughput.turns import Turns

Translate = Callable[[list[list[int]]], list[list[int]]]
"""One batch of source ids, </s> included, to the target ids without it."""


def serve(turns: Turns, job: dict[str, Any], translate: Translate) -> None:
    """Translate this process's share of the batches in every turn, and leave what came of the last one in a file.

    The job says where the sentences are (`work`), how many processes share them (`processes`, of which this is number
    `process`), how many batches are worked on at a time (`at_a_time`), and where the answer goes (`answer`).
    """
    work = json.loads(Path(job["work"]).read_text(encoding="utf-8"))
    answer = Path(f"{job['answer']}-{job['process']}.json")

    def timed(batch: list[int]) -> tuple[list[list[int]], float]:
        started = time.perf_counter()
        hypotheses = translate([work["sources"][number] for number in batch])
        return hypotheses, time.perf_counter() - started

    with ThreadPoolExecutor(job["at_a_time"]) as pool:
        while True:
            batch_tokens = turns.wait()
            mine = work["batches"][str(batch_tokens)][job["process"] :: job["processes"]]
            results = list(pool.map(timed, mine))
            tokens = sum(len(ids) for hypotheses, _ in results for ids in hypotheses)
            turns.report(tokens=tokens)
            numbers = [number for batch in mine for number in batch]
            found = [ids for hypotheses, _ in results for ids in hypotheses]
            record = {
                "hypotheses": dict(zip(numbers, found, strict=True)),
                "batch_seconds": [seconds for _, seconds in results],
            }
            answer.write_text(json.dumps(record), encoding="utf-8")
