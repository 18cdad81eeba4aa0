"""python -m stages.compress: one recipe applied to any trained model directory, of a study or of none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import StudyError
from stages.entry import one_thread, overridden, run, work_folder

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[
        Path, typer.Argument(help="A trained model's directory: an imported one, or a study's dense one.")
    ],
    recipe: Annotated[
        str,
        typer.Option(help="Steps as a study's YAML writes them, or STUDY/RECIPE, such as default/q4, of configs/."),
    ],
    to: Annotated[Path, typer.Option(help="Where to write the compressed model's directory.")],
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="A corpus prepared with the model's tokenizer: for recipes that calibrate or train, and losses."
        ),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="What steps that train may spend: '1000 step', '2e6 tok' or '1e13 flop'.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="How steps train, such as --set learning_rate=0.001 or --set dropout=0.3. Repeatable."
        ),
    ] = None,
) -> None:
    """Compress one trained model and write it as a model directory, which says how it was made.

    Example: tlc compress models/ende --recipe '[{method: uniform, bits: 4}]' --to models/ende-4bit

    A recipe that calibrates or trains needs sentences: `tlc prepare --settings corpus.yaml --out corpus`, with
    `tokenizer: models/ende` in that file, encodes them with the model's own tokenizer.
    """
    from pipeline.compression.any_model import Settings, compress_model, entry_of, read_recipe

    if to.exists():
        raise StudyError(f"{to}: is there already; delete it, or give another directory with --to")
    if not (model / "config.json").is_file():
        raise StudyError(f"{model}: no config.json there; give a trained model's directory")
    steps = read_recipe(recipe, studies=Path("configs"))
    changed, named = (
        overridden(Settings().model_dump(), settings),
        {setting.partition("=")[0] for setting in settings or ()},
    )
    entry = entry_of(model, steps, budget=budget, settings={name: changed[name] for name in named})
    one_thread()
    from pipeline.compression.formats import load_model, size_bytes
    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.evaluation.losses import validation_loss

    sentences = None if corpus is None else PreparedCorpus.open(corpus)
    measure = None if sentences is None else validation_loss(sentences)
    made = compress_model(
        model,
        steps,
        entry=entry,
        corpus=sentences,
        out=to,
        work=work_folder("compress", model.resolve().name, entry, inputs=[model, *([corpus] if corpus else [])]),
        validate=measure or (lambda parameters: float("nan")),
    )
    before, after = size_bytes(model), size_bytes(to)
    print(f"{to}: {steps.name}, {before:,} -> {after:,} bytes, {before / after:.2f} times smaller")
    if measure is not None:
        print(f"validation loss a token: {measure(load_model(model)):.4f} -> {measure(load_model(to)):.4f}")
    spent = made["ledger"]
    if spent:
        print(
            "spent: "
            + ", ".join(f"{name} {cost['flops']:.3g} FLOPs, {cost['steps']:g} steps" for name, cost in spent.items())
        )


if __name__ == "__main__":
    run(app)
