"""python -m stages.quantize: a family of recipes that quantize one trained run."""

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
        str, typer.Option("--run", help="A quantize key of params.yaml, such as default-w64x2-s0-posttraining.")
    ],
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; artifacts/<study>/compressed/<run>/<family> by default.")
    ] = None,
) -> None:
    """Make a family's recipes that quantize, with or without training, of one run, and write the packed files.

    Example: python -m stages.quantize --run default-w64x2-s0-posttraining
    One recipe of your own: python -m stages.quantize --run default-w64x2-s0-posttraining --out /tmp/five-bits
             --set 'recipes={q5: {branch: full, steps: [{method: uniform, bits: 5}]}}'
    """
    print(make_family("quantize", run_key, settings=settings, out=out))


if __name__ == "__main__":
    run(app)
