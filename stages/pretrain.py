"""python -m stages.pretrain: train one size to its budgets, a trunk and its cooldown branches."""

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
    out: Annotated[
        Path | None, typer.Option(help="Where to write; artifacts/<study>/pretrain/<run> by default.")
    ] = None,
) -> None:
    """Train one size of the grid to its budgets and write a model for every cooldown branch.

    Example: python -m stages.pretrain --run default-w64x2-s0

    Several processes share every batch: torchrun --nproc-per-node 2 -m -- stages.pretrain --run default-w64x2-s0
    """
    entry = changed_entry("pretrain", run_key, settings, out)
    one_thread()
    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.evaluation.losses import validation_loss
    from pipeline.training.parallel import joined, say
    from pipeline.training.pretraining import pretrain

    folder = artifacts(entry["study"], "corpus")
    corpus = PreparedCorpus.open_task(folder, entry["task"])
    work = work_folder("pretrain", run_key, entry, inputs=[folder])
    final = out or artifacts(entry["study"], "pretrain", run_key)
    with joined():
        say(pretrain(entry, key=run_key, corpus=corpus, out=final, work=work, validate=validation_loss(corpus)))


if __name__ == "__main__":
    run(app)
