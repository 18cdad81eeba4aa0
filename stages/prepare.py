"""python -m stages.prepare: from raw sentence pairs to splits, tokenizer and token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import StudyError
from stages.entry import SET_HELP, artifacts, overridden, read_entry, run

app = typer.Typer(add_completion=False)


@app.command()
def main(
    study: Annotated[str, typer.Option("--study", help="A study of params.yaml, such as default.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; artifacts/<study>/corpus by default.")] = None,
) -> None:
    """Fetch or read a study's corpus, clean it, split it by component, learn its tokenizer and write token ids.

    Example: python -m stages.prepare --study default --set max_pairs=20000 --out /tmp/corpus
    """
    entry = read_entry("prepare", study)
    if settings and out is None:
        raise StudyError("--set changes the corpus: give --out too, so that the study's own corpus stays as it is")
    from pydantic import ValidationError

    from pipeline.corpora.preparation import prepare
    from pipeline.study import CorpusSpec

    # params.yaml leaves out what is not set, and --set must be able to set it
    given = {name: entry.get(name, field.default) for name, field in CorpusSpec.model_fields.items()}
    try:
        spec = CorpusSpec(**overridden(given, settings))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(["corpus", *(str(part) for part in first["loc"])])
        raise StudyError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
    final = out or artifacts(study, "corpus")
    card = prepare(spec, final)
    sizes = ", ".join(f"{name} {card['splits'][name]['entries']}" for name in ("train", "valid", "test"))
    kept, raw = card["counts"]["kept"], card["counts"]["raw"]
    print(f"{final}: {sizes} from {kept} of {raw} pairs, vocabulary {card['tokenizer']['vocab_size']}")


if __name__ == "__main__":
    run(app)
