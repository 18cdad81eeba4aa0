"""python -m stages.translate: stdin by any model; a study's test set; training sentences for sequence-level students."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import StudyError
from stages.entry import artifacts, one_thread, read_entry, run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _train(study: str, out: Path | None) -> str:
    entry = read_entry("translate_train", study)
    one_thread()
    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.distillation.sequences import write_translations
    from pipeline.distillation.teachers import best_teacher
    from pipeline.evaluation.translation import decode_lines

    corpus = PreparedCorpus.open(artifacts(study, "corpus"))
    tokenizer = corpus.tokenizer()
    teacher = best_teacher(entry["candidates"], pretrained=artifacts(study, "pretrain"))

    def decode(directory: Path, sources: list[str]) -> list[str]:
        return decode_lines(directory, sources, tokenizer=tokenizer, search=entry)

    return write_translations(
        entry,
        teacher=teacher,
        teacher_path=artifacts(study, "pretrain", teacher, "seconds"),
        corpus=corpus,
        out=out or artifacts(study, "translate", "train"),
        decode=decode,
    )


def _test(study: str, out: Path | None) -> str:
    entry = read_entry("translate_test", study)
    one_thread()
    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.evaluation.translation import translate_test
    from pipeline.expected import expected_models
    from pipeline.files import read_json
    from pipeline.selection import configurations_to_translate, rows_frame

    rows: list[dict[str, Any]] = []
    for key in (*entry["runs"], *entry["students"]):
        rows += read_json(artifacts(study, "evaluate", key, "rows.json"))
    chosen = set(configurations_to_translate(rows_frame(rows), entry))
    return translate_test(
        {m.run_id: artifacts(study) / m.folder for m in expected_models(entry) if m.run_id in chosen},
        search=entry,
        corpus=PreparedCorpus.open(artifacts(study, "corpus")),
        resamples=entry["resamples"],
        out=out or artifacts(study, "translate", "test"),
    )


def _stream(
    directory: Path,
    *,
    engine: str | None,
    threads: int,
    window: int,
    batch_tokens: int,
    beam: int | None,
    length_penalty: float | None,
    max_length: int | None,
) -> None:
    """Translate stdin to stdout; a reader that has gone ends it quietly."""
    from pipeline.deployment.product import open_product
    from pipeline.deployment.stream import translate_stream

    product = open_product(directory, engine=engine, threads=threads)
    wanted = product.search_with(beam=beam, length_penalty=length_penalty, max_length=max_length)
    if product.note:
        typer.echo(f"note: {product.note}", err=True)
    try:
        streamed = translate_stream(product, wanted, window=window, batch_tokens=batch_tokens)
    except BrokenPipeError:
        return
    if streamed.cut:
        typer.echo(
            f"note: {streamed.cut} of {streamed.lines} lines had more than the model's {product.positions} tokens "
            "and lost their end",
            err=True,
        )


_OF_STUDIES = ("out",)
_OF_MODELS = ("engine", "beam", "length_penalty", "max_length", "threads", "window", "batch")


def _refuse_others(context: typer.Context, names: tuple[str, ...], mode: str, own: str) -> None:
    """Raise StudyError where the command line has one of these options, which only another mode reads."""
    for name in names:
        given = context.get_parameter_source(name)
        if given is not None and given.name == "COMMANDLINE":
            raise StudyError(f"translate: --{name.replace('_', '-')} is an option of {own}; leave it out with {mode}")


@app.command()
def main(
    context: typer.Context,
    model: Annotated[
        Path | None,
        typer.Option(help="A directory that `tlc export` wrote, or a model directory: stdin is translated to stdout."),
    ] = None,
    train: Annotated[
        str | None, typer.Option("--train", help="A study: its best larger model translates training sentences.")
    ] = None,
    test: Annotated[
        str | None, typer.Option("--test", help="A study: the test set, for the models its verdict needs.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Of --train and --test: where to write; artifacts/<study>/translate/ by default."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="Of --model, a model directory: what runs it; by default what it is deployed in."),
    ] = None,
    beam: Annotated[int | None, typer.Option(help="Hypotheses a sentence; 1 is greedy and fastest.")] = None,
    length_penalty: Annotated[float | None, typer.Option(help="Above 1 favours long translations.")] = None,
    max_length: Annotated[int | None, typer.Option(help="The most tokens of a translation.")] = None,
    threads: Annotated[int, typer.Option(help="Batches at a time in CTranslate2, threads of one batch elsewhere.")] = 1,
    window: Annotated[int, typer.Option(help="The most lines that are translated before any is written.")] = 1000,
    batch: Annotated[int, typer.Option(help="Padded source tokens that are translated together.")] = 1000,
) -> None:
    """Translate by batched beam search, line for line.

    With --model, UTF-8 lines from stdin: one translation a line, in order, an empty line stays empty. What has been typed
    or piped so far is translated at once. Without --beam, --length-penalty and --max-length the model's own settings hold.

    Example: tlc translate --model model < in.txt > out.txt

    Example: tail -f log.txt | tlc translate --model model --beam 1 --threads 2

    With --train or --test, a stage of a study, scored with sacreBLEU. Example: python -m stages.translate --test default
    """
    if sum(choice is not None for choice in (model, train, test)) != 1:
        raise StudyError("translate: give one of --model DIR, --train STUDY and --test STUDY")
    if model is not None:
        _refuse_others(context, _OF_STUDIES, "--model", "--train and --test")
        _stream(
            model,
            engine=engine,
            threads=threads,
            window=window,
            batch_tokens=batch,
            beam=beam,
            length_penalty=length_penalty,
            max_length=max_length,
        )
    else:
        _refuse_others(context, _OF_MODELS, "--train" if train else "--test", "--model")
        print(_train(train, out) if train else _test(str(test), out))


if __name__ == "__main__":
    run(app)
