"""python -m stages.finetune: every branch of a pretrained encoder finetuned as a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.entry import SET_HELP, artifacts, changed_entry, one_thread, run, work_folder

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    run_key: Annotated[str, typer.Option("--run", help="A finetune key of params.yaml, such as mlm-w64x2-s0.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; artifacts/<study>/finetune/<run> by default.")
    ] = None,
) -> None:
    """Finetune a pretrained encoder on labelled sentences, with what its budget has left, and one without pretraining beside it.

    Example: python -m stages.finetune --run mlm-w64x2-s0
    Another rate: tlc finetune --run mlm-w64x2-s0 --set learning_rate=0.0005 --out /tmp/rate
    """
    entry = changed_entry("finetune", run_key, settings, out)
    one_thread()
    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.evaluation.losses import validation_loss
    from pipeline.training.finetuning import finetune

    study = entry["study"]
    corpus = PreparedCorpus.open_task(artifacts(study, "corpus"), entry["task"])
    pretrained = artifacts(study, "pretrain", entry["run"])
    print(
        finetune(
            entry,
            key=run_key,
            pretrained=pretrained,
            corpus=corpus,
            out=out or artifacts(study, "finetune", run_key),
            work=work_folder("finetune", run_key, entry, inputs=[corpus.path, pretrained]),
            validate=validation_loss(corpus),
        )
    )


if __name__ == "__main__":
    run(app)
