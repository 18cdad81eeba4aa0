"""python -m stages.import_fairseq: a fairseq Transformer as a model directory that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.entry import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    checkpoint: Annotated[Path, typer.Argument(help="What fairseq-train wrote, such as checkpoint_best.pt.")],
    dictionaries: Annotated[
        list[Path], typer.Argument(help="dict.txt of both languages, or the source's and the target's.")
    ],
    to: Annotated[Path, typer.Option(help="The model directory to write; it must be empty or not be there.")],
    bpe: Annotated[
        str, typer.Option(help="How units join to words: none, subword_nmt (@@), sentencepiece (\u2581), auto.")
    ] = "auto",
    source_lang: Annotated[str | None, typer.Option(help="Source language; the checkpoint's by default.")] = None,
    target_lang: Annotated[str | None, typer.Option(help="Target language; the checkpoint's by default.")] = None,
    license: Annotated[str, typer.Option(help="Licence of the training data, for the model card.")] = "not stated",
    credit: Annotated[str, typer.Option(help="Credit for the training data, for the model card.")] = "not stated",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier import.")] = False,
) -> None:
    """Turn a fairseq Transformer, pre-norm or post-norm, tied or not, into a transformers checkpoint with the same logits.

    Nothing in the checkpoint is run: it may hold tensors and options, and what holds more is refused.

    Example: tlc import-fairseq checkpoint_best.pt dict.en.txt dict.de.txt --to models/en-de
    """
    from pipeline.models.fairseq_import import Origin, import_fairseq

    origin = Origin(source_lang=source_lang, target_lang=target_lang, license=license, credit=credit)
    print(import_fairseq(checkpoint, dictionaries, to, joining=bpe, origin=origin, overwrite=overwrite))


if __name__ == "__main__":
    run(app)
