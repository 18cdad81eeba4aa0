"""python -m stages.prune: iterative magnitude pruning of one pretrained run, then quantization of the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.entry import SET_HELP, artifacts, changed_entry, one_thread, run, work_folder

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    run_key: Annotated[str, typer.Option("--run", help="A pretrain key of params.yaml, such as default-w64x2-s0.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; artifacts/<study>/prune/<run> by default.")] = None,
) -> None:
    """Prune one run's early branches to every sparsity of the study, recover them, and write the sparse files.

    Example: python -m stages.prune --run default-w64x2-s0
    """
    entry = changed_entry("prune", run_key, settings, out)
    one_thread()
    from pipeline.compression.recovery import prune_run
    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.evaluation.losses import validation_loss

    study = entry["study"]
    folder, parent = artifacts(study, "corpus"), artifacts(study, "pretrain", run_key)
    corpus = PreparedCorpus.open(folder)
    print(
        prune_run(
            entry,
            key=run_key,
            parent=parent,
            corpus=corpus,
            out=out or artifacts(study, "prune", run_key),
            work=work_folder("prune", run_key, entry, inputs=[folder, parent]),
            validate=validation_loss(corpus),
        )
    )


if __name__ == "__main__":
    run(app)
