"""python -m stages.calibrate: seconds a step of every size on this machine, written to a small file to commit."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from stages.entry import artifacts, run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    study: Annotated[str, typer.Option("--study", help="A study of params.yaml whose corpus is prepared.")],
    processes: Annotated[
        int | None, typer.Option(min=1, help="Training processes that the study runs at once; the cores by default.")
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Steps a measurement.")] = 40,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", help="train, finetune, qat, word or decode alone; repeatable. All by default."),
    ] = None,
) -> None:
    """Measure the seconds of every kind of step that the study takes, on every shape that it is taken on.

    As many processes are busy meanwhile as the study will use. Budgets in seconds become steps through this file. It is an
    input, refreshed only when you run this command; then `tlc plan --write`. Example: python -m stages.calibrate --study default
    """
    from pipeline.calibration import calibration_path
    from pipeline.errors import StudyError, nearest
    from pipeline.evaluation.step_seconds import KINDS, calibrate
    from pipeline.params import study_of

    for kind in kinds or ():
        if kind not in KINDS:
            raise StudyError(f"--kind {kind}: no such kind of step{nearest(kind, KINDS)}")
    path = calibration_path(study)
    result = calibrate(
        study_of(study),
        corpus_path=artifacts(study, "corpus"),
        path=path,
        processes=processes or os.cpu_count() or 1,
        steps=steps,
        kinds=tuple(kinds or KINDS),
    )
    shown = ", ".join(f"{size} {1000 * seconds:.1f} ms" for size, seconds in result.train_step_seconds.items())
    print(f"{path}: a training step takes {shown}; now run `tlc plan --write`")


if __name__ == "__main__":
    run(app)
