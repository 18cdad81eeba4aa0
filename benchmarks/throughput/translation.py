"""All sides that translate: their processes, their fastest settings, their turns, and what these come to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pipeline.compression.activation_rounding import rounds_inputs
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.engines.batches import batches_of_like_length
from pipeline.engines.parity import same_hypotheses
from pipeline.engines.registry import start_engine
from pipeline.errors import StudyError
from pipeline.evaluation.decoding import decode_targets, encode_sources
from pipeline.evaluation.scores import corpus_scores
from pipeline.evaluation.translation import plain
from pipeline.models.pruned import difference_of_sides, is_heads_pruned
from throughput.sides import OURS, threads
from throughput.teams import Side, Team, Turn, alternate, take_turns

FAIRSEQ, REFERENCE, DEFAULT = "fairseq", "transformers", "transformers-default"
ATTENTIONS = ("eager", "sdpa")
"""What transformers' generate may choose from; left alone it takes the last."""


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


def unlike_fairseq(model: Any) -> str | None:
    """Return why fairseq's side, which builds one kind of Transformer, would run another model than this; None where it would not."""
    config = model.config
    if config.model_type != "m2m_100":
        return f"model type {config.model_type}"
    tables = (model.model.encoder.embed_tokens, model.model.decoder.embed_tokens, model.lm_head)
    if not config.tie_word_embeddings or len({table.weight.data_ptr() for table in tables}) > 1:
        return "embeddings that are not tied"
    if config.activation_function != "relu":
        return f"{config.activation_function} activations"
    if not config.scale_embedding:
        return "embeddings that are not scaled"
    if difference := difference_of_sides(config):
        return f"{difference} in encoder and decoder"
    if is_heads_pruned(config):
        return "heads that do not fill the width"
    return "linear layers that round their inputs" if rounds_inputs(model) else None


class Work:
    """The sentences as every side reads them, with their batches at every size that may be asked for."""

    def __init__(self, task: Task, batch_tokens: Sequence[int]) -> None:
        """Encode the first test sentences of the corpus; StudyError when they, or the model, are not there."""
        self.task = task
        self.model = plain(task.model)
        corpus = PreparedCorpus.open(task.corpus)
        self.tokenizer = corpus.tokenizer()
        split = corpus.pairs("test")
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
        reason = unlike_fairseq(self.model)
        if reason:
            raise StudyError(f"{self.task.model}: {reason}, which the Transformer that fairseq's side builds has not")
        # Its tied embeddings are one parameter too, under three names.
        names = {name: tensor for name, tensor in self.model.state_dict().items() if name != "lm_head.weight"}
        arrays = {name.removeprefix("model."): tensor.numpy() for name, tensor in names.items()}
        arrays["decoder.output_projection.weight"] = self.model.lm_head.weight.detach().numpy()
        arrays.pop("shared.weight")
        path = self.task.folder / "weights.npz"
        np.savez(path, **arrays)
        size = {"d_model": config.d_model, "num_layers": config.encoder_layers, "ffn_dim": config.encoder_ffn_dim}
        size |= {"num_heads": config.encoder_attention_heads, "vocab_size": config.vocab_size}
        return {
            "weights": str(path),
            "size": size,
            "max_positions": config.max_position_embeddings,
            "start": config.decoder_start_token_id,
        }

    def check(self, engine: str) -> None:
        """Raise StudyError where an engine cannot take the model."""
        start_engine(engine, self.model, self.tokenizer)


def side(name: str, work: Work, *, fairseq_python: Path) -> Side:
    """Return a side by name, its cores divided as the task says; StudyError where it cannot translate with this model."""
    task = work.task
    processes, threads_each, at_a_time = task.processes, task.threads, 1
    settings: dict[str, Any] = {"engine": {OURS: "torch", DEFAULT: REFERENCE}.get(name, name)}
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
    if name == DEFAULT:  # what a user has who divides nothing
        processes, threads_each = 1, task.processes * task.threads
    settings |= {"processes": processes, "threads": threads_each, "at_a_time": at_a_time}
    shape = f"{processes} x {at_a_time * threads_each} threads"
    titles = {OURS: "our decoder", REFERENCE: "transformers' generate", DEFAULT: "transformers' generate as it comes"}
    made = Side(
        name=name,
        description=f"{titles.get(name, name)}, {shape}",
        module="fairseq_generate" if name == FAIRSEQ else "translator",
        processes=processes,
        environment=threads(threads_each),
        settings=settings | {"answer": str(task.folder / f"answer-{name}")},
        **python,
    )
    return with_attention(made, ATTENTIONS[-1]) if name == DEFAULT else made


def with_attention(found: Side, attention: str) -> Side:
    """Return a side of transformers' with this kind of attention."""
    settings = found.settings | {"attention": attention}
    return replace(found, description=f"{found.description}, {attention} attention", settings=settings)


def alternatives(found: Side) -> list[Side]:
    """Return a side in each way that is tried, beside its batch sizes: transformers' with every kind of attention."""
    if found.name != REFERENCE:
        return [found]
    return [with_attention(found, attention) for attention in ATTENTIONS]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A side in the way, and with the batch size, that was the fastest."""

    side: Side
    batch_tokens: int
    at_edge: bool  # nothing smaller, or nothing larger, was tried


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one side's turns came to."""

    choice: Choice
    turns: list[Turn]
    batch_seconds: list[float]
    lines: list[str]
    bleu: float
    same: float | None  # share of its hypotheses that are transformers' own; None where that was not run

    def row(self) -> dict[str, Any]:
        """Return the columns of the table: the median over rounds; latencies of a batch are those of the last round."""
        seconds = median(turn.seconds for turn in self.turns)
        middle, slow = np.quantile(self.batch_seconds, [0.5, 0.95])
        return {
            "sentences_per_second": len(self.lines) / seconds,
            "tokens_per_second": median(turn.tokens / turn.seconds for turn in self.turns),
            "batch_tokens": self.choice.batch_tokens,
            "batch_at_edge": self.choice.at_edge,
            "batch_sentences": len(self.lines) / len(self.batch_seconds),
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


def best_choices(sides: Sequence[Side], job: dict[str, Any], sizes: Sequence[int], *, logs: Path) -> dict[str, Choice]:
    """Return each side's fastest way and batch size: one turn each in every way at every size, after one of warm-up."""
    trials = {
        found.name: [replace(way, name=f"{found.name}-{number}") for number, way in enumerate(alternatives(found))]
        for found in sides
    }
    searched = [way for ways in trials.values() if len(ways) * len(sizes) > 1 for way in ways]
    turns: dict[str, list[Turn]] = {}
    if searched:
        logs.mkdir()
        rounds = [{way.name: size for way in searched} for size in (sizes[0], *sizes)]
        with ExitStack() as stack:
            teams = [stack.enter_context(Team(way, job, logs=logs)) for way in searched]
            turns = take_turns(teams, rounds, label="fastest settings")
    best = {}
    for found in sides:
        ways = trials[found.name]
        tried = [
            (turn.seconds, size, way)
            for way in ways
            if way.name in turns
            for size, turn in zip(sizes, turns[way.name][1:], strict=True)
        ]
        _, size, way = min(tried, key=itemgetter(0), default=(0.0, sizes[0], ways[0]))
        edge = len(sizes) > 1 and size in (min(sizes), max(sizes))
        best[found.name] = Choice(side=replace(way, name=found.name), batch_tokens=size, at_edge=edge)
    return best


def measured_against(
    answers: dict[str, tuple[list[list[int]], list[float]]],
    turns: dict[str, list[Turn]],
    best: dict[str, Choice],
    work: Work,
) -> dict[str, Measured]:
    """Return what every side's hypotheses and seconds come to; transformers' hypotheses are what others' are compared with."""
    reference = answers[REFERENCE][0] if REFERENCE in answers else None
    result = {}
    for name, (hypotheses, seconds) in answers.items():
        lines = decode_targets(work.tokenizer, hypotheses)
        result[name] = Measured(
            choice=best[name],
            turns=turns[name],
            batch_seconds=seconds,
            lines=lines,
            bleu=corpus_scores(lines, work.references)["bleu"],
            same=None if reference is None else same_hypotheses(hypotheses, reference),
        )
    return result


def measure(sides: Sequence[Side], work: Work, *, sizes: Sequence[int], rounds: int) -> dict[str, Measured]:
    """Return every side's measurement: turns in its fastest way in processes that did nothing before but a warm-up."""
    task = work.task
    job = {"work": str(work.path), "model": str(task.model), "corpus": str(task.corpus), "search": task.search}
    best = best_choices(sides, job, sizes, logs=task.folder / "search")
    chosen = [choice.side for choice in best.values()]
    steps = {name: choice.batch_tokens for name, choice in best.items()}
    turns = alternate(chosen, job, rounds=rounds, steps=steps, logs=task.folder, label="translate")
    answers = {found.name: _answer(found, work) for found in chosen}
    return measured_against(answers, turns, best, work)
