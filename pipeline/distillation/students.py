"""Training a student within the budget of a plain run of its size, teacher passes and decoding included."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.budget import Budget
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.distillation.beginnings import initial_student
from pipeline.distillation.lessons import lesson_of
from pipeline.distillation.sequences import read_teacher
from pipeline.errors import StudyError
from pipeline.files import atomic_path, write_json
from pipeline.models.checkpoint import save_dense
from pipeline.training.branches import begin, clear
from pipeline.training.devices import micro_batch_tokens, move, training_device
from pipeline.training.loop import Diverged, LoopOptions, train
from pipeline.training.precision import resolve
from pipeline.training.pretraining import Validate, run_record
from pipeline.training.pricing import total_costs
from pipeline.training.schedules import cooldown
from pipeline.training.state import TrainState, load_checkpoint

PHASE = "student"


def distill(
    entry: dict[str, Any], *, key: str, pretrained: Path, translations: Path, corpus: PreparedCorpus, out: Path, work: Path,
    validate: Validate,
) -> str:  # fmt: skip
    """Train one student and write `out`: the model directory ``seconds``, curve.csv, metrics.json; return a summary line.

    Teacher passes (word level) and decoding (sequence level) are paid from the same budget as the student's updates.
    StudyError when the teacher's part is not calibrated, leaves nothing for the student, or cannot be cut to its shape.
    """
    device = training_device()
    precision = resolve(entry["precision"], device)
    taught = read_teacher(translations)
    teacher_path = pretrained / taught["teacher"] / "seconds"
    budget = Budget.parse(entry["budget"])
    lesson = lesson_of(
        entry, teacher=teacher_path, translations=translations, corpus=corpus, budget=budget, precision=precision
    )
    steps = budget.steps_within(total_costs(lesson.stream(entry, corpus), lesson.price), spent=lesson.paid.total)
    if steps < 2:
        raise StudyError(f"{key}: the budget {budget} pays for {steps} steps beside the teacher; raise it")

    model = initial_student(entry, teacher=teacher_path, vocab_size=corpus.vocab_size)
    move(model, device)
    state = TrainState.start(
        model,
        stream=lesson.stream(entry, corpus),
        precision=precision,
        learning_rate=entry["learning_rate"],
        mup_base_width=entry["mup_base_width"],
        weight_decay=entry["weight_decay"],
        paid=lesson.paid,
    )
    progress_path = work / "progress.pt"
    options = LoopOptions(
        objective=lesson.objective,
        price=lesson.price,
        peak_rate=entry["learning_rate"],
        clip_norm=entry["clip_norm"],
        validate=validate,
        checkpoint_path=progress_path,
        checkpoint_seconds=entry["checkpoint_seconds"],
        device=device,
        micro_batch_tokens=micro_batch_tokens(),
    )
    begin(work, out=out)
    if progress_path.exists():
        state.load_state_dict(load_checkpoint(progress_path)["state"])
    schedule = partial(
        cooldown, warmup_steps=entry["warmup_steps"], total_steps=steps, decay_fraction=entry["decay_fraction"]
    )
    metrics: dict[str, Any] = {"status": "ok", "steps": steps, "teacher": taught["teacher"], "valid_loss": None}
    try:
        train(state, options, phase=PHASE, until=steps, schedule=schedule, validate_at=frozenset({steps}))
        metrics["valid_loss"] = state.curve[-1]["valid_loss"]
    except Diverged as fault:
        print(f"{key}: {fault}; the run is marked diverged and the study goes on")
        metrics["status"] = "diverged"
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        if metrics["status"] == "ok":
            record = run_record(
                entry,
                vocab_size=corpus.vocab_size,
                match="seconds",
                run_id=f"{key}-seconds-fp32",
                parent_id=taught["teacher_id"],
                config_id=f"{entry['size']}-{entry['teaching']}/fp32",
                budget=str(budget),
                method="distill",
                recipe="fp32",
                ledger=state.ledger.as_dict(),
                teacher_training=taught["training"],
                steps=steps,
                precision=precision,
            )
            save_dense(model, temporary / "seconds", tokenizer=corpus.tokenizer(), run=record, corpus=corpus.card)
            pd.DataFrame(state.curve).to_csv(temporary / "curve.csv", index=False, lineterminator="\n")
        write_json(temporary / "metrics.json", {"seconds": metrics})
    clear(work)
    loss = "diverged" if metrics["valid_loss"] is None else f"validation loss {metrics['valid_loss']:.3f}"
    return f"{key}: {loss} after {steps} steps"
