"""python -m stages.prepare: from raw sentence pairs, or text and labelled sentences, to splits, tokenizer and token ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import StudyError, nearest
from stages.entry import SET_HELP, artifacts, overridden, read_entry, run

if TYPE_CHECKING:
    from pipeline.section import Section

app = typer.Typer(add_completion=False)


def _settings(study: str | None, file: Path | None) -> dict[str, Any]:
    """Return the corpus section of a study of params.yaml, or of a YAML file that holds nothing else."""
    if (study is None) == (file is None):
        raise StudyError("prepare: give either --study NAME or --settings FILE")
    if study is not None:
        return {name: value for name, value in read_entry("prepare", study).items() if name != "study"}
    import yaml

    try:
        found = yaml.safe_load(Path(str(file)).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError(f"{file}: cannot be read ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(found, dict):
        raise StudyError(f"{file}: the settings of a corpus are a mapping, as under `corpus:` in configs/default.yaml")
    return found


def _inner(annotation: Any) -> type[Section] | None:
    from pipeline.section import Section

    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def _flat(kind: type[Section], given: dict[str, Any], where: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting by its dotted name, with its default where it is not given: --set must be able to set it."""
    for name in given:
        if name not in kind.model_fields:
            raise StudyError(f"{where}: unknown key {prefix + str(name)!r}{nearest(str(name), kind.model_fields)}")
    for name, field in kind.model_fields.items():
        inner = _inner(field.annotation)
        if field.is_required() and name not in given:
            raise StudyError(f"{where}: {prefix}{name} is missing; see `corpus:` in the studies of configs/")
        if inner is None:
            yield prefix + name, given.get(name, field.default)
        elif isinstance(given[name], dict):
            yield from _flat(inner, given[name], where, f"{prefix}{name}.")
        else:
            raise StudyError(f"{where}: {prefix}{name} is a mapping of settings, not {given[name]!r}")


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for dotted, value in flat.items():
        *sections, name = dotted.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return nested


def _summary(card: dict[str, Any]) -> str:
    def sizes(splits: dict[str, Any]) -> str:
        return ", ".join(f"{name} {splits[name]['entries']}" for name in ("train", "valid", "test"))

    splits, counts = card["splits"], card["counts"]
    vocabulary = f"vocabulary {card['tokenizer']['vocab_size']}"
    if "text" not in splits:
        return f"{sizes(splits)} from {counts['kept']} of {counts['raw']} pairs, {vocabulary}"
    parts = [
        f"{what} {sizes(splits[part])} from {counts[part]['kept']} of {counts[part]['raw']} {raw}"
        for part, what, raw in (("text", "blocks", "documents"), ("sentences", "sentences", "rows"))
    ]
    return f"{'; '.join(parts)}; {vocabulary}"


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
    Of text and labelled sentences, settings inside a section have its name in front:
             python -m stages.prepare --study mlm --set text.max_documents=5000 --out /tmp/corpus
    """
    entry = _settings(study, file)
    if out is None and (settings or study is None):
        raise StudyError("give --out too: settings of your own make a corpus that is no study's")
    from pydantic import ValidationError

    from pipeline.corpora.encoder_preparation import prepare_encoder_corpus
    from pipeline.corpora.preparation import prepare
    from pipeline.pair_corpus import CorpusSpec
    from pipeline.text_corpus import EncoderCorpusSpec

    kind: type[Section] = EncoderCorpusSpec if entry.get("kind") == "text" else CorpusSpec
    given = overridden(dict(_flat(kind, entry, str(file or study))), settings)
    try:
        spec = kind(**_nested(given))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(["corpus", *(str(part) for part in first["loc"])])
        raise StudyError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
    final = out or artifacts(str(study), "corpus")
    if isinstance(spec, EncoderCorpusSpec):
        card = prepare_encoder_corpus(spec, final)
    else:
        assert isinstance(spec, CorpusSpec)
        card = prepare(spec, final)
    print(f"{final}: {_summary(card)}")


if __name__ == "__main__":
    run(app)
