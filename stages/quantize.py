"""python -m stages.quantize: a family of recipes that quantize one trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.entry import SET_HELP, artifacts, changed_entry, one_thread, run, work_folder

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
    entry = changed_entry("quantize", run_key, settings, out)
    one_thread()
    from pipeline.compression.families import compress
    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.evaluation.losses import validation_loss

    study = entry["study"]
    folder, parent = artifacts(study, "corpus"), artifacts(study, entry["parent"])
    corpus = PreparedCorpus.open(folder)
    print(
        compress(
            entry,
            key=run_key,
            parent=parent,
            corpus=corpus,
            out=out or artifacts(study, "compressed", entry["run"], entry["family"]),
            work=work_folder("quantize", run_key, entry, inputs=[folder, parent]),
            validate=validation_loss(corpus),
        )
    )


if __name__ == "__main__":
    run(app)
