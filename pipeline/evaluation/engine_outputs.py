"""What the engines make of the models: their own outputs, scored, after comparison with our own.

Before an engine's time is believed, what it says of the test set in fp32 is compared: its greedy hypotheses with those of
our own decoder, its classes with those of a plain forward pass; fewer than `SAME_AT_LEAST` identical ones and the
record's status is ``differs``. An engine computes int8 and int16 with other roundings than fp32, on purpose, so that what
is compared for those is the fp32 conversion of the same weights by the same engine (ctranslate2-float32 for
ctranslate2-int8, onnxruntime-float32 for onnxruntime-int8): it goes through the same converter and the same search. What
the narrower numbers then do to quality, the score of the engine's own output says. Our own decoder is itself compared
with transformers' generate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.deployed import WITHOUT_REFUSAL, Planned
from pipeline.engines.search import EngineRefusal
from pipeline.evaluation.class_outputs import ClassOutputs
from pipeline.evaluation.processes import on_every_core
from pipeline.evaluation.translation import opened, write_lines
from pipeline.evaluation.translation_outputs import TranslationOutputs
from pipeline.files import atomic_path, read_json, remove_whole, write_json

SAME_AT_LEAST = 0.99
"""The share of the test set on which an engine must agree, greedily and in fp32, before it is timed."""

_UNSCORED = ("quality", "quality_low", "quality_high", "signature", "chrf")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One model and what is to be done with it; `work` holds the file that says it is done."""

    directory: Path
    planned: tuple[Planned, ...]
    work: Path


class Outputs(Protocol):
    """One model in engines: a line of output for every sentence of the test set."""

    def lines(self, name: str) -> list[str]:
        """Return an engine's output; EngineRefusal where it does not take the model."""
        ...

    def share_alike(self, name: str) -> float:
        """Return the share of the test set on which the engine agrees, in fp32, with what it is compared with."""
        ...

    def fault(self, name: str, share: float) -> str:
        """Return what is wrong where only such a share is alike."""
        ...

    def scores(self, lines: list[str], *, resamples: int) -> dict[str, Any]:
        """Return what a record says of the quality of an output."""
        ...

    def size_bytes(self, name: str) -> int:
        """Return the bytes of the files that the engine reads."""
        ...


def outputs_of(directory: Path, corpus: PreparedCorpus, search: dict[str, Any]) -> Outputs:
    """Return a model's outputs as the corpus needs them: translations, by `search`, or classes."""
    if corpus.kind == "sentences":
        return ClassOutputs(directory, corpus)
    return TranslationOutputs(directory, corpus, search)


def _record(planned: Planned, outputs: Outputs, *, resamples: int) -> tuple[dict[str, Any], list[str] | None]:
    """Return an engine's record of a model and its output, None where it refuses."""
    record: dict[str, Any] = {
        "run_id": planned.run_id,
        "engine": planned.engine,
        "deployed": planned.deployed,
        "status": "ok",
        "note": planned.note,
        "same_hypotheses": None,
        "size_bytes": None,
        **dict.fromkeys(_UNSCORED),
    }
    try:
        lines = outputs.lines(planned.engine)
        if planned.first:
            record["same_hypotheses"] = outputs.share_alike(planned.engine)
    except EngineRefusal as refusal:
        return record | {"deployed": False, "status": "refused", "note": str(refusal)}, None
    if planned.first and record["same_hypotheses"] < SAME_AT_LEAST:
        fault = outputs.fault(planned.engine, record["same_hypotheses"])
        record |= {"status": "differs", "note": "; ".join(filter(None, [fault, planned.note]))}
    scores = outputs.scores(lines, resamples=resamples)
    record |= {name: scores[name] for name in _UNSCORED} | {"size_bytes": outputs.size_bytes(planned.engine)}
    return record, lines


def run_model(task: Task, *, search: dict[str, Any], corpus_path: Path, resamples: int) -> Path:
    """Put one model through its engines and write `task.work`: its records and outputs; return that path.

    A model that the engine of its deployment refuses is deployed in torch, with the refusal as its note.
    """
    if task.work.exists():
        return task.work
    outputs = outputs_of(task.directory, opened(corpus_path), search)
    done = []
    for planned in task.planned:
        record, lines = _record(planned, outputs, resamples=resamples)
        done.append({"record": record, "lines": lines})
        if planned.deployed and record["status"] == "refused":
            own = Planned(
                run_id=planned.run_id, engine=WITHOUT_REFUSAL, deployed=True, first=planned.first, note=record["note"]
            )
            record, lines = _record(own, outputs, resamples=resamples)
            done.append({"record": record, "lines": lines})
    write_json(task.work, done)
    return task.work


def run_engines(
    plan: Iterable[Planned],
    models: dict[str, Path],
    *,
    search: dict[str, Any],
    corpus: PreparedCorpus,
    resamples: int,
    out: Path,
    work: Path,
) -> str:
    """Write `out`: ``<run_id>.<engine>.txt`` for every pair of the plan, engines.json with their records; return a summary.

    `models` are directories by run_id; `search` has beam, length_penalty and max_length for translation. Finished models
    stay in `work` until all are done, so that a stopped stage goes on.
    """
    tasks = [
        Task(directory=models[run_id], planned=tuple(group), work=work / f"{run_id}.json")
        for run_id, group in groupby(plan, key=lambda planned: planned.run_id)
    ]
    work.mkdir(parents=True, exist_ok=True)
    # What takes longest goes first, so that no core waits for the other in the end.
    longest = sorted(tasks, key=lambda task: (-sum(planned.first for planned in task.planned), task.work.name))
    run = partial(run_model, search=search, corpus_path=corpus.path, resamples=resamples)
    for _ in on_every_core(run, longest, desc="engines"):
        pass
    records = []
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        for task in tasks:
            for one in read_json(task.work):
                record, lines = one["record"], one["lines"]
                records.append(record)
                if lines is not None:
                    write_lines(temporary / f"{record['run_id']}.{record['engine']}.txt", lines)
        write_json(temporary / "engines.json", records)
    remove_whole(work)
    told = {status: sum(record["status"] == status for record in records) for status in ("ok", "refused", "differs")}
    counted = ", ".join(f"{number} {status}" for status, number in told.items())
    return f"{out}: {len(tasks)} models in {len({record['engine'] for record in records})} engines: {counted}"
