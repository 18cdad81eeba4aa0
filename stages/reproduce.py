"""tlc reproduce: the DVC graph with independent stages side by side."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated

import typer

from stages.entry import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _estimates() -> dict[str, float]:
    """Return the plan's seconds of every stage of the studies in params.yaml; of graphs that are not ours nothing is known."""
    from pipeline.calibration import Calibration
    from pipeline.errors import StudyError
    from pipeline.params import read_params, study_of
    from pipeline.plan import stage_seconds

    seconds: dict[str, float] = {}
    with contextlib.suppress(StudyError):
        for name in read_params()["studies"]:
            seconds |= stage_seconds(study_of(name), Calibration.load(name))
    return seconds


@app.command()
def main(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Stages, as for dvc repro: report@default. All of dvc.yaml by default.")
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="How many CPUs to use at once; all by default.")
    ] = os.cpu_count() or 1,
    address: Annotated[
        str | None, typer.Option("--address", help="A Ray cluster to use instead: auto, host:port or ray://host:port.")
    ] = None,
) -> None:
    """Do what dvc repro does, with independent stages side by side; dvc.lock becomes what one after the other would make it.

    A stage that fails leaves out only what depends on it. Ctrl-C lets the running stages save; the same command goes on.

    Examples: tlc reproduce report@default
              tlc reproduce report@default report@mine --jobs 8
              tlc reproduce report@default --address auto
    """
    from pipeline.orchestration.coordinator import reproduce
    from pipeline.orchestration.view import View

    view: View = View()
    if sys.stdout.isatty():
        from pipeline.orchestration.live import LiveView

        view = LiveView(jobs)
    report = reproduce(targets or [], jobs=jobs, address=address, seconds=_estimates(), view=view)
    raise typer.Exit(report.exit_code)


if __name__ == "__main__":
    run(app)
