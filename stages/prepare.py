"""python -m stages.prepare: from raw sentence pairs to splits, tokenizer and token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import StudyError, nearest
from stages.entry import SET_HELP, artifacts, overridden, read_entry, run

app = typer.Typer(add_completion=False)


def _settings(study: str | None, file: Path | None) -> dict[str, Any]:
    """Return the corpus section of a study of params.yaml, or of a YAML file that holds nothing else."""
    if (study is None) == (file is None):
        raise StudyError("prepare: give either --study NAME or --settings FILE")
    if study is not None:
        return read_entry("prepare", study)
    import yaml

    try:
        found = yaml.safe_load(Path(str(file)).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError(f"{file}: cannot be read ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(found, dict):
        raise StudyError(f"{file}: the settings of a corpus are a mapping, as under `corpus:` in configs/default.yaml")
    return found


@app.command()
def main(
    study: Annotated[str | None, typer.Option("--study", help="A study of params.yaml, such as default.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--settings", help="A YAML file with a corpus' settings alone, for a corpus of no study; give --out."
        ),
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; artifacts/<study>/corpus by default.")] = None,
) -> None:
    """Fetch or read a corpus, clean it, split it by component, learn its tokenizer and write token ids.

    Example: python -m stages.prepare --study default --set max_pairs=20000 --out /tmp/corpus
    For a model that is trained already, with `tokenizer: MODEL` among the settings:
             python -m stages.prepare --settings corpus.yaml --out /tmp/corpus
    """
    entry = _settings(study, file)
    if out is None and (settings or study is None):
        raise StudyError("give --out too: settings of your own make a corpus that is no study's")
    from pydantic import ValidationError

    from pipeline.corpora.preparation import prepare
    from pipeline.study import CorpusSpec

    # params.yaml leaves out what is not set, and --set must be able to set it
    given = {name: entry.get(name, field.default) for name, field in CorpusSpec.model_fields.items()}
    unknown = [] if study else [name for name in entry if name not in given]
    if unknown:
        raise StudyError(f"{file}: unknown key {unknown[0]!r}{nearest(str(unknown[0]), given)}")
    missing = [name for name, field in CorpusSpec.model_fields.items() if field.is_required() and name not in entry]
    if missing:
        raise StudyError(f"{file or study}: {missing[0]} is missing; see `corpus:` in configs/default.yaml")
    try:
        spec = CorpusSpec(**overridden(given, settings))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(["corpus", *(str(part) for part in first["loc"])])
        raise StudyError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
    final = out or artifacts(str(study), "corpus")
    card = prepare(spec, final)
    sizes = ", ".join(f"{name} {card['splits'][name]['entries']}" for name in ("train", "valid", "test"))
    kept, raw = card["counts"]["kept"], card["counts"]["raw"]
    print(f"{final}: {sizes} from {kept} of {raw} pairs, vocabulary {card['tokenizer']['vocab_size']}")


if __name__ == "__main__":
    run(app)
