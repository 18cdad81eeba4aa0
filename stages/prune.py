"""python -m stages.prune: a family of recipes that prune one trained run, recover it, and quantize it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.entry import SET_HELP, artifacts, changed_entry, one_thread, run, work_folder

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
    entry = changed_entry("prune", run_key, settings, out)
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
            work=work_folder("prune", run_key, entry, inputs=[folder, parent]),
            validate=validation_loss(corpus),
        )
    )


if __name__ == "__main__":
    run(app)
