"""All sides that translate: their processes, their best batch size, their turns, and what these come to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pipeline.compression.activation_rounding import rounds_inputs
from pipeline.compression.formats import QUANTO, load_model, weights_file
from pipeline.compression.quanto_files import plain_model
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.engines.batches import batches_of_like_length
from pipeline.engines.registry import start_engine
from pipeline.errors import StudyError
from pipeline.evaluation.decoding import decode_targets, encode_sources
from pipeline.evaluation.scores import corpus_scores
from pipeline.models.pruned import is_heads_pruned
from throughput.sides import OURS, threads
from throughput.teams import Side, Team, Turn, alternate, take_turns

FAIRSEQ, REFERENCE = "fairseq", "transformers"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all sides translate, and how."""

    model: Path
    corpus: Path
    sentences: int
    search: dict[str, Any]  # the fields of BeamSearch
    processes: int
    threads: int  # of a process
    folder: Path  # for scratch files


class Work:
    """The sentences as every side reads them, with their batches at every size that may be asked for."""

    def __init__(self, task: Task, batch_tokens: Sequence[int]) -> None:
        """Encode the first test sentences of the corpus; StudyError when they, or the model, are not there."""
        self.task = task
        self.model = load_model(task.model)
        if weights_file(task.model).name == QUANTO:
            self.model = plain_model(self.model)
        corpus = PreparedCorpus.open(task.corpus)
        self.tokenizer = corpus.tokenizer()
        split = corpus.split("test")
        self.references = split.references()[: task.sentences]
        lines = split.source_lines()[: task.sentences]
        sources = encode_sources(self.tokenizer, lines, max_tokens=self.model.config.max_position_embeddings)
        self.sentences = len(sources)
        lengths = [len(ids) for ids in sources]
        batches = {size: batches_of_like_length(lengths, size) for size in batch_tokens}
        self.path = task.folder / "work.json"
        self.path.write_text(json.dumps({"sources": sources, "batches": batches}), encoding="utf-8")

    def fairseq_settings(self) -> dict[str, Any]:
        """Write the weights for fairseq's side and return what it must know; StudyError where its model is another."""
        config = self.model.config
        if config.model_type != "m2m_100" or is_heads_pruned(config) or rounds_inputs(self.model):
            raise StudyError("fairseq's Transformer is of another kind than this model")
        # Its tied embeddings are one parameter too, under three names.
        names = {name: tensor for name, tensor in self.model.state_dict().items() if name != "lm_head.weight"}
        arrays = {name.removeprefix("model."): tensor.numpy() for name, tensor in names.items()}
        arrays["decoder.output_projection.weight"] = self.model.lm_head.weight.detach().numpy()
        arrays.pop("shared.weight")
        path = self.task.folder / "weights.npz"
        np.savez(path, **arrays)
        size = {"d_model": config.d_model, "num_layers": config.encoder_layers, "ffn_dim": config.encoder_ffn_dim}
        size |= {"num_heads": config.encoder_attention_heads, "vocab_size": config.vocab_size}
        return {"weights": str(path), "size": size, "max_positions": config.max_position_embeddings}

    def check(self, engine: str) -> None:
        """Raise StudyError where an engine cannot take the model."""
        start_engine(engine, self.model, self.tokenizer)


def side(name: str, work: Work, *, fairseq_python: Path) -> Side:
    """Return a side by name, its cores divided as the task says; StudyError where it cannot translate with this model."""
    task = work.task
    processes, at_a_time = task.processes, 1
    settings: dict[str, Any] = {"engine": "torch" if name == OURS else name}
    python: dict[str, str] = {}
    if name == FAIRSEQ:
        if not fairseq_python.exists():
            raise StudyError(
                f"no environment at {fairseq_python.parent.parent}; `make fairseq-env` makes it in minutes"
            )
        settings, python = work.fairseq_settings(), {"python": str(fairseq_python)}
    else:
        work.check(settings["engine"])
    if name.startswith("ctranslate2"):  # threads of one process share the weights
        processes, at_a_time = 1, task.processes
    settings |= {"processes": processes, "threads": task.threads, "at_a_time": at_a_time}
    shape = f"{processes} x {at_a_time * task.threads} threads"
    return Side(
        name=name,
        description=f"{'our decoder' if name == OURS else name}, {shape}",
        module="fairseq_generate" if name == FAIRSEQ else "translator",
        processes=processes,
        environment=threads(task.threads),
        settings=settings | {"answer": str(task.folder / f"answer-{name}")},
        **python,
    )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one side's turns came to."""

    batch_tokens: int
    turns: list[Turn]
    batch_seconds: list[float]
    lines: list[str]
    bleu: float
    same: float  # share of its hypotheses that are transformers' own

    def row(self) -> dict[str, Any]:
        """Return the columns of the table: the median over rounds; latencies of a batch are those of the last round."""
        seconds = median(turn.seconds for turn in self.turns)
        middle, slow = np.quantile(self.batch_seconds, [0.5, 0.95])
        return {
            "sentences_per_second": len(self.lines) / seconds,
            "tokens_per_second": median(turn.tokens / turn.seconds for turn in self.turns),
            "batch_tokens": self.batch_tokens,
            "batch_ms_p50": 1000 * float(middle),
            "batch_ms_p95": 1000 * float(slow),
            "peak_bytes": self.turns[-1].peak_bytes,
            "bleu": self.bleu,
            "same_as_transformers": self.same,
        }


def _answer(found: Side, work: Work) -> tuple[list[list[int]], list[float]]:
    """Return a side's hypotheses in the sentences' order, and its batches' seconds."""
    records = [
        json.loads(Path(f"{found.settings['answer']}-{number}.json").read_text(encoding="utf-8"))
        for number in range(found.processes)
    ]
    by_number = {int(key): ids for record in records for key, ids in record["hypotheses"].items()}
    hypotheses = [by_number[number] for number in range(work.sentences)]
    return hypotheses, [seconds for record in records for seconds in record["batch_seconds"]]


def best_sizes(sides: Sequence[Side], job: dict[str, Any], sizes: Sequence[int], *, logs: Path) -> dict[str, int]:
    """Return each side's fastest batch size: one turn each at every size, after one of warm-up."""
    if len(sizes) == 1:
        return {found.name: sizes[0] for found in sides}
    logs.mkdir()
    rounds = [{found.name: size for found in sides} for size in (sizes[0], *sizes)]
    with ExitStack() as stack:
        teams = [stack.enter_context(Team(found, job, logs=logs)) for found in sides]
        taken = take_turns(teams, rounds, label="batch sizes")
    return {
        name: min(zip(sizes, turns[1:], strict=True), key=lambda pair: pair[1].seconds)[0]
        for name, turns in taken.items()
    }


def measure(sides: Sequence[Side], work: Work, *, sizes: Sequence[int], rounds: int) -> dict[str, Measured]:
    """Return every side's measurement: turns at its best batch size in processes that did nothing before but a warm-up."""
    task = work.task
    job = {"work": str(work.path), "model": str(task.model), "corpus": str(task.corpus), "search": task.search}
    best = best_sizes(sides, job, sizes, logs=task.folder / "search")
    turns = alternate(sides, job, rounds=rounds, steps=best, logs=task.folder, label="translate")
    answers = {found.name: _answer(found, work) for found in sides}
    reference, _ = answers.get(REFERENCE, answers[OURS])
    result = {}
    for name, (hypotheses, seconds) in answers.items():
        lines = decode_targets(work.tokenizer, hypotheses)
        result[name] = Measured(
            batch_tokens=best[name],
            turns=turns[name],
            batch_seconds=seconds,
            lines=lines,
            bleu=corpus_scores(lines, work.references)["bleu"],
            same=float(np.mean([mine == its for mine, its in zip(hypotheses, reference, strict=True)])),
        )
    return result
