"""python -m stages.export: a row of the table becomes a directory that others run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.entry import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[str, typer.Argument(metavar="RUN", help="A run_id of a study's table, or a model directory.")],
    to: Annotated[Path, typer.Option("--to", help="The directory to write; it must be empty or not be there.")],
    engine: Annotated[
        str | None,
        typer.Option(
            help="ctranslate2-float32, -int16 or -int8, onnxruntime-float32 or -int8, transformers, packed; "
            "by default what the row's latency was measured on."
        ),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Where the card's measurements come from; results/<study> by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write a trained or compressed model as a product: weights, tokenizer, model card, three lines that run it.

    Fp32 weights become CTranslate2 float32, quantized ones CTranslate2 int8, a classifier's ONNX Runtime likewise; what no
    engine takes stays packed in the study's own file. README.md is the card, run.json has every setting.

    Example: tlc export default-w64x2-s0-seconds-q4 --to model, then tlc translate --model model < in.txt > out.txt

    Example: tlc export artifacts/default/pretrain/default-w64x2-s0/seconds --engine transformers --to plain
    """
    from pipeline.deployment.directory import check_target
    from pipeline.deployment.export import export
    from pipeline.deployment.forms import form_named
    from pipeline.deployment.sources import find_source

    if engine is not None:
        form_named(engine)
    check_target(to, overwrite=overwrite)
    source = find_source(model)
    study = source.run.get("study")
    exported = export(
        source,
        to,
        form=engine,
        results=results or (Path("results", study) if study else None),
        overwrite=overwrite,
    )
    if exported.note:
        typer.echo(f"note: {exported.note}", err=True)
    for name, size in exported.files.items():
        print(f"{size:>12,} bytes  {name}")
    print(f"{exported.directory}: {source.name} as {exported.form.title}, {sum(exported.files.values()):,} bytes")
    if exported.form.packages:
        print(f"\npip install {' '.join(exported.form.packages)}")
    print(f"\n{exported.code}")


if __name__ == "__main__":
    run(app)
