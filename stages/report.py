"""python -m stages.report: the table, the verdict, the figures and the page of one study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.entry import artifacts, read_entry, run

app = typer.Typer(add_completion=False)


@app.command()
def main(
    study: Annotated[str, typer.Option("--study", help="A study of params.yaml.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; results/<study> by default.")] = None,
) -> None:
    """Compare a study's models and write its results: runs, curves, verdict, figures, page, metrics.

    Example: python -m stages.report --study default
    """
    entry = read_entry("report", study)
    from pipeline.analysis.report import write_report

    print(write_report(entry, artifacts=artifacts(study), out=out or Path("results", study)))


if __name__ == "__main__":
    run(app)
