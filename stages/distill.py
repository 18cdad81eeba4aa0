"""python -m stages.distill: train one student from the study's teacher, at the cost of a plain run of its size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.entry import SET_HELP, artifacts, changed_entry, one_thread, run, work_folder

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    run_key: Annotated[str, typer.Option("--run", help="A distill key of params.yaml, such as default-w32x2-both-s0.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; artifacts/<study>/distill/<run> by default.")
    ] = None,
) -> None:
    """Train one student by word-level distillation, sequence-level distillation, or both, and write its model.

    Its key says what it learns from (word, sequence, both), and with init behind it that it begins as a part of its teacher
    instead of at random. Teacher passes and decoding are paid from the student's own budget.

    Example: python -m stages.distill --run default-w32x2-both-s0 --set alpha=0.9 --out /tmp/alpha-0.9
    """
    entry = changed_entry("distill", run_key, settings, out)
    one_thread()
    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.distillation.students import distill
    from pipeline.evaluation.losses import validation_loss

    study = entry["study"]
    folder, translations = artifacts(study, "corpus"), artifacts(study, "translate", "train")
    corpus = PreparedCorpus.open(folder)
    print(
        distill(
            entry,
            key=run_key,
            pretrained=artifacts(study, "pretrain"),
            translations=translations,
            corpus=corpus,
            out=out or artifacts(study, "distill", run_key),
            work=work_folder("distill", run_key, entry, inputs=[folder, translations]),
            validate=validation_loss(corpus),
        )
    )


if __name__ == "__main__":
    run(app)
