"""python -m stages.quantize: k-bit post-training quantization of one pretrained run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.entry import SET_HELP, artifacts, changed_entry, one_thread, run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    run_key: Annotated[str, typer.Option("--run", help="A pretrain key of params.yaml, such as default-w64x2-s0.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; artifacts/<study>/quantize/<run> by default.")
    ] = None,
) -> None:
    """Quantize one run's models to every bit width of the study and write the packed files.

    Example: python -m stages.quantize --run default-w64x2-s0 --set bits=[5] --out /tmp/five-bits
    """
    entry = changed_entry("quantize", run_key, settings, out)
    one_thread()
    from pipeline.compression.posttraining import quantize_run
    from pipeline.corpora.prepared import PreparedCorpus

    study = entry["study"]
    parent = artifacts(study, "pretrain", run_key)
    corpus = PreparedCorpus.open(artifacts(study, "corpus"))
    final = out or artifacts(study, "quantize", run_key)
    print(quantize_run(entry, key=run_key, parent=parent, corpus=corpus, out=final))


if __name__ == "__main__":
    run(app)
