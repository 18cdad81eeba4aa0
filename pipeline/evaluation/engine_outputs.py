"""What the engines make of the models: their own translations, scored, after comparison with our own decoder's.

Before an engine's time is believed, its greedy hypotheses of the test set in fp32 are compared with those of our own decoder;
fewer than `SAME_AT_LEAST` identical ones and the record's status is ``differs``. An engine computes int8 and int16 with
other roundings than fp32, on purpose, so that what is compared for those is the fp32 conversion of the same weights by
the same engine (ctranslate2-float32 for ctranslate2-int8, onnxruntime-float32 for onnxruntime-int8): it goes through
the same converter and the same search. What the narrower numbers then do to quality, the engine's own BLEU says. Our
own decoder is itself compared with transformers' generate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.compression.formats import size_bytes
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.deployed import WITHOUT_REFUSAL, Planned
from pipeline.engines.parity import same_hypotheses
from pipeline.engines.registry import start_engine
from pipeline.engines.search import Engine, EngineRefusal
from pipeline.errors import StudyError
from pipeline.evaluation.decoding import translate
from pipeline.evaluation.processes import on_every_core
from pipeline.evaluation.translation import opened, plain, score_lines, write_lines
from pipeline.files import atomic_path, read_json, remove_whole, write_json

SAME_AT_LEAST = 0.99
"""The share of the test set whose greedy hypotheses must be identical before an engine is timed."""

REFERENCE, ITS_REFERENCE = WITHOUT_REFUSAL, "transformers"
"""What engines are compared with, and what that is compared with."""

_UNSCORED = ("quality", "quality_low", "quality_high", "signature", "chrf")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One model and what is to be done with it; `work` holds the file that says it is done."""

    directory: Path
    planned: tuple[Planned, ...]
    work: Path


def _reference(name: str) -> str:
    return REFERENCE if name != REFERENCE else ITS_REFERENCE


class _Outputs:
    """One model in every engine that it is asked for, each started and each greedy search done once."""

    def __init__(self, directory: Path, corpus: PreparedCorpus, search: dict[str, Any]) -> None:
        self.directory, self.search = directory, search
        self.model, self.tokenizer = plain(directory), corpus.tokenizer()
        self.split = corpus.split("test")
        self._engines: dict[str, Engine] = {}
        self._greedy: dict[str, list[str]] = {}

    def engine(self, name: str) -> Engine:
        if name not in self._engines:
            self._engines[name] = start_engine(name, self.model, self.tokenizer)
        return self._engines[name]

    def lines(self, name: str, *, beam: int) -> list[str]:
        """Return the test set's hypotheses, counted; EngineRefusal where the engine does not take the model."""
        sources = self.split.source_lines()
        hypotheses = translate(
            self.model,
            self.tokenizer,
            sources,
            beam=beam,
            length_penalty=self.search["length_penalty"],
            max_length=self.search["max_length"],
            engine=self.engine(name),
        )
        if len(hypotheses) != len(sources):
            raise StudyError(f"{self.directory}: {name} gave {len(hypotheses)} hypotheses for {len(sources)} lines")
        return hypotheses

    def greedy(self, name: str) -> list[str]:
        if name not in self._greedy:
            self._greedy[name] = self.lines(name, beam=1)
        return self._greedy[name]

    def same_hypotheses(self, name: str) -> float:
        """Return the share of the test set that the engine's fp32 search and the reference translate alike, greedily."""
        family = name.partition("-")[0]
        compared = name if family == name else f"{family}-float32"
        mine, others = self.greedy(compared), self.greedy(_reference(name))
        return same_hypotheses(mine, others)

    def size_bytes(self, name: str) -> int:
        """Return the bytes of the files that the engine reads: its own, or the model's where it has none."""
        own: int | None = getattr(self.engine(name), "size_bytes", None)
        return size_bytes(self.directory) if own is None else own


def _record(planned: Planned, outputs: _Outputs, *, resamples: int) -> tuple[dict[str, Any], list[str] | None]:
    """Return an engine's record of a model and its hypotheses, None where it refuses."""
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
        hypotheses = outputs.lines(planned.engine, beam=outputs.search["beam"])
        if planned.first:
            record["same_hypotheses"] = outputs.same_hypotheses(planned.engine)
    except EngineRefusal as refusal:
        return record | {"deployed": False, "status": "refused", "note": str(refusal)}, None
    if planned.first and record["same_hypotheses"] < SAME_AT_LEAST:
        fault = f"only {record['same_hypotheses']:.1%} of its greedy fp32 hypotheses are {_reference(planned.engine)}'s"
        record |= {"status": "differs", "note": "; ".join(filter(None, [fault, planned.note]))}
    scores = score_lines(hypotheses, outputs.split, resamples=resamples)
    record |= {name: scores[name] for name in _UNSCORED} | {"size_bytes": outputs.size_bytes(planned.engine)}
    return record, hypotheses


def run_model(task: Task, *, search: dict[str, Any], corpus_path: Path, resamples: int) -> Path:
    """Put one model through its engines and write `task.work`: its records and hypotheses; return that path.

    A model that the engine of its deployment refuses is deployed in our own decoder, with the refusal as its note.
    """
    if task.work.exists():
        return task.work
    outputs = _Outputs(task.directory, opened(corpus_path), search)
    done = []
    for planned in task.planned:
        record, hypotheses = _record(planned, outputs, resamples=resamples)
        done.append({"record": record, "hypotheses": hypotheses})
        if planned.deployed and record["status"] == "refused":
            own = Planned(
                run_id=planned.run_id, engine=REFERENCE, deployed=True, first=planned.first, note=record["note"]
            )
            record, hypotheses = _record(own, outputs, resamples=resamples)
            done.append({"record": record, "hypotheses": hypotheses})
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

    `models` are directories by run_id; `search` has beam, length_penalty and max_length. Finished models stay in `work`
    until all are done, so that a stopped stage goes on.
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
                record, hypotheses = one["record"], one["hypotheses"]
                records.append(record)
                if hypotheses is not None:
                    write_lines(temporary / f"{record['run_id']}.{record['engine']}.txt", hypotheses)
        write_json(temporary / "engines.json", records)
    remove_whole(work)
    told = {status: sum(record["status"] == status for record in records) for status in ("ok", "refused", "differs")}
    counted = ", ".join(f"{number} {status}" for status, number in told.items())
    return f"{out}: {len(tasks)} models in {len({record['engine'] for record in records})} engines: {counted}"
