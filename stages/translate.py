"""python -m stages.translate: beam search over the test set, or over training sentences for sequence-level students."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

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


@app.command()
def main(
    train: Annotated[
        str | None, typer.Option("--train", help="A study: its best larger model translates training sentences.")
    ] = None,
    test: Annotated[
        str | None, typer.Option("--test", help="A study: the test set, for the models its verdict needs.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; artifacts/<study>/translate/ by default.")] = None,
) -> None:
    """Translate by batched beam search, line-aligned with the input; the test set is scored with sacreBLEU.

    Example: python -m stages.translate --test default
    """
    from pipeline.errors import StudyError

    if (train is None) == (test is None):
        raise StudyError("translate: give either --train STUDY or --test STUDY")
    print(_train(train, out) if train else _test(str(test), out))


if __name__ == "__main__":
    run(app)
