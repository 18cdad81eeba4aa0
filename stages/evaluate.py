"""python -m stages.evaluate: losses on validation and test sets, sizes and costs of one run's models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.entry import artifacts, one_thread, read_entry, run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    run_key: Annotated[str | None, typer.Option("--run", help="A pretrain key: all recipes of that run.")] = None,
    student: Annotated[str | None, typer.Option("--student", help="A distill key: that student.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; artifacts/<study>/evaluate/<run> by default.")
    ] = None,
) -> None:
    """Measure every model of one run: loss a token or class, accuracy of classes, bytes, inference FLOPs, and what it cost.

    Example: python -m stages.evaluate --run default-w64x2-s0
    """
    from pipeline.errors import StudyError

    if (run_key is None) == (student is None):
        raise StudyError("evaluate: give either --run or --student; the keys are in params.yaml")
    entry = read_entry("evaluate", run_key) if run_key else read_entry("evaluate_students", str(student))
    one_thread()
    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.evaluation.measurement import measure
    from pipeline.expected import models_of_run, models_of_student

    study, task = entry["study"], entry["task"]
    resamples = entry["resamples"] if task == "classification" else None
    key = str(run_key or student)
    models = list(models_of_run(entry, key) if run_key else models_of_student(entry, key))
    corpus = PreparedCorpus.open_task(artifacts(study, "corpus"), task)
    final = out or artifacts(study, "evaluate", key)
    print(measure(models, artifacts=artifacts(study), corpus=corpus, out=final, resamples=resamples))


if __name__ == "__main__":
    run(app)
