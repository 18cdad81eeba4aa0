"""Device seconds of each kind of step at steady state: what turns a budget in seconds into a number of steps.

As in Li et al. 2020, time is measured apart from training and multiplied by the steps, so that a busy moment does not
change what a run may do. Every measurement runs in as many processes at once as the study will use.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier

import torch

from pipeline.budget import Ledger
from pipeline.calibration import Calibration
from pipeline.compression.pruning import apply_masks, compressible, magnitude_masks
from pipeline.compression.rounding import RowRounding
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.corpora.streams import open_stream
from pipeline.distillation.losses import WordDistillation
from pipeline.evaluation.decoding import translate
from pipeline.expansion import teacher_candidates
from pipeline.files import write_json
from pipeline.models.building import build
from pipeline.progress import progress
from pipeline.size import SizeSpec
from pipeline.steps_needed import steps_needed
from pipeline.study import Study
from pipeline.training.devices import finish_work, micro_batch_tokens, move, training_device
from pipeline.training.forward import forward_of
from pipeline.training.loop import LoopOptions, Projection, train
from pipeline.training.objectives import CrossEntropy, Objective
from pipeline.training.precision import resolve
from pipeline.training.pricing import step_price
from pipeline.training.state import TrainState

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
}
"""What the Makefile sets for the study's processes, and why, stands there."""

KINDS = ("train", "finetune", "qat", "word", "decode")

_QAT_BITS = 3  # a step takes as long with any other number
_WARMUP_STEPS = 4
_START_SECONDS = 300  # that a process waits for the others before it gives up
_ROUNDS = 3  # over all measurements, the fastest of each counts: a slow minute of the machine must not slow one size


def step_seconds(
    study: Study,
    size: SizeSpec,
    corpus_path: Path,
    *,
    kind: str,
    teacher: SizeSpec | None,
    steps: int,
    start: Barrier | None = None,
) -> float:
    """Return the mean seconds of an update of `kind` (train, finetune, qat, word) over `steps` batches of the real corpus.

    Processes that measure side by side begin together at `start`: one that has not begun yet would leave the others the machine.
    """
    torch.set_num_threads(1)
    task = "classification" if size.num_labels else study.task
    corpus = PreparedCorpus.open_task(corpus_path, task)
    training = study.finetune if task == "classification" and study.finetune else study.training
    dropout = training.dropout if size.dropout is None or size.num_labels else size.dropout
    device = training_device()
    model = build(size, vocab_size=corpus.vocab_size, dropout=dropout, seed=0)
    move(model, device)
    precision = resolve(study.training.precision, device)
    objective: Objective = CrossEntropy(label_smoothing=training.label_smoothing)
    if teacher is not None:
        teaches = build(teacher, vocab_size=corpus.vocab_size, seed=0).eval()
        move(teaches, device)
        objective = WordDistillation(
            teacher=forward_of(teaches, precision=precision),
            label_smoothing=training.label_smoothing,
            alpha=study.distill.alpha,
            temperature=study.distill.temperature,
            direction=study.distill.direction,
            teacher_until=1 << 60,
        )
    state = TrainState.start(
        model,
        stream=open_stream(corpus.split("train"), batch_tokens=training.batch_tokens, seed=0),
        precision=precision,
        learning_rate=1e-4,
        mup_base_width=training.learning_rate.mup_base_width,
        weight_decay=training.weight_decay,
        paid=Ledger(),
    )
    weights = {name: parameter.detach() for name, parameter in compressible(model).items()}
    projection: Projection | None = None
    if kind == "qat":
        projection = partial(RowRounding, bits=dict.fromkeys(weights, _QAT_BITS))
    if kind == "finetune":
        state.masks = magnitude_masks(weights, 0.5)
        apply_masks(model, state.masks)
    options = LoopOptions(
        objective=objective,
        price=step_price(size, vocab_size=corpus.vocab_size, seconds_per_step=0.0),
        peak_rate=1e-4,
        clip_norm=study.training.clip_norm,
        validate=lambda model: 0.0,
        checkpoint_path=None,
        checkpoint_seconds=float("inf"),
        device=device,
        micro_batch_tokens=micro_batch_tokens(),
        projection=projection,
    )
    train(state, options, phase=kind, until=_WARMUP_STEPS, schedule=lambda step: 1.0)
    finish_work(device)
    if start is not None:
        start.wait(_START_SECONDS)
    started = time.perf_counter()
    train(state, options, phase=kind, until=_WARMUP_STEPS + steps, schedule=lambda step: 1.0)
    finish_work(device)
    return (time.perf_counter() - started) / steps


def decode_seconds(
    study: Study, size: SizeSpec, corpus_path: Path, *, sentences: int, start: Barrier | None = None
) -> float:
    """Return the seconds of translating one training sentence on one thread, with a decoder that stops at the mean length.

    An untrained model never ends a sentence, so each is cut at the corpus's mean target length.
    """
    torch.set_num_threads(1)
    corpus = PreparedCorpus.open(corpus_path)
    split = corpus.pairs("train")
    model = build(size, vocab_size=corpus.vocab_size, seed=0).eval()
    length = round(float(split.target.lengths.mean())) + 1

    def seconds(lines: list[str]) -> float:
        started = time.perf_counter()
        translate(
            model,
            corpus.tokenizer(),
            lines,
            beam=study.distill.sequence_beam,
            length_penalty=study.translate.length_penalty,
            max_length=length,
            threads=1,
        )
        return time.perf_counter() - started

    # The engine's start-up is paid once for the whole corpus, not once a sentence: two counts tell it apart.
    lines = split.source_lines()[: 2 * sentences]
    seconds(lines[:sentences])
    if start is not None:
        start.wait(_START_SECONDS)
    few, many = (seconds(lines[:count]) for count in (len(lines) // 4, len(lines)))
    return (many - few) / (len(lines) - len(lines) // 4)


def _mean_of_processes(pool: Executor, processes: int, start: Barrier, measure: Callable[..., float]) -> float:
    """Run the same measurement in `processes` processes at once and return the mean."""
    futures = [pool.submit(measure, start=start) for _ in range(processes)]
    return sum(future.result() for future in futures) / processes


def calibrate(
    study: Study, *, corpus_path: Path, path: Path, processes: int, steps: int, kinds: tuple[str, ...] = KINDS
) -> Calibration:
    """Measure the `kinds` of step of a study, keep the others as they were, and write its calibration file; return it."""
    candidates = teacher_candidates(study)
    jobs: dict[tuple[str, str], Callable[..., float]] = {}
    for needed in steps_needed(study, teachers=candidates):
        jobs[needed.kind, needed.key] = partial(
            step_seconds, study, needed.size, corpus_path, kind=needed.kind, teacher=needed.teacher, steps=steps
        )
    for size in candidates if study.distill.students else ():
        jobs["decode", size.key] = partial(decode_seconds, study, size, corpus_path, sentences=512)
    jobs = {name: job for name, job in jobs.items() if name[0] in kinds}
    before = Calibration.load(study.name)
    measured: dict[str, dict[str, float]] = {
        "train": dict(before.train_step_seconds),
        "finetune": dict(before.finetune_step_seconds),
        "qat": dict(before.qat_step_seconds),
        "word": dict(before.word_step_seconds),
        "decode": dict(before.decode_sentence_seconds),
    }
    for kind in kinds:
        measured[kind].clear()
    os.environ.update(ENVIRONMENT)  # glibc and OpenMP read theirs when a process starts
    context = get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(processes, mp_context=context) as pool:
        start = manager.Barrier(processes)
        rounds = [item for _ in range(_ROUNDS) for item in jobs.items()]
        for (kind, key), job in progress(rounds, desc="calibrate", unit="measurement"):
            seconds = round(_mean_of_processes(pool, processes, start, job), 7)
            measured[kind][key] = min(seconds, measured[kind].get(key, seconds))
    for kind in ("finetune", "qat"):  # a masked or a rounded step does all that a plain one does, and more
        for key, seconds in measured[kind].items():
            measured[kind][key] = max(seconds, measured["train"].get(key, seconds))
    device = training_device()
    precision = resolve(study.training.precision, device)
    result = Calibration(
        train_step_seconds=measured["train"],
        finetune_step_seconds=measured["finetune"],
        qat_step_seconds=measured["qat"],
        word_step_seconds=measured["word"],
        decode_sentence_seconds=measured["decode"],
        machine={
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "processes": processes,
            "precision": precision,
            "torch": torch.__version__,
        }
        | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
    )
    write_json(path, {name: getattr(result, name) for name in Calibration.__dataclass_fields__})
    return result


def _cpu_name() -> str:
    for line in (
        Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    ):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"
