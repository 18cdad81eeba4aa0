"""python -m stages.prune: a family of recipes that prune one trained run, recover it, and quantize it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.entry import SET_HELP, run
from stages.family import make_family

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    run_key: Annotated[
        str, typer.Option("--run", help="A prune key of params.yaml, such as default-w64x2-s0-magnitude.")
    ],
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; artifacts/<study>/compressed/<run>/<family> by default.")
    ] = None,
) -> None:
    """Make a family's recipes that prune, recovery and quantization on top included, of one run, and write the files.

    Example: python -m stages.prune --run default-w64x2-s0-magnitude
    """
    print(make_family("prune", run_key, settings=settings, out=out))


if __name__ == "__main__":
    run(app)
