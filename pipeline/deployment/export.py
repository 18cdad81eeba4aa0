"""A row of the table, or a model directory, written as a product: weights, tokenizer, settings, card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.deployment.conversion import generation_settings, never_produced, write_weights
from pipeline.deployment.forms import FORMS, PACKED, Form, deployed_form, export_record, form_named
from pipeline.deployment.measurements import read_measurements
from pipeline.deployment.model_card import CardFacts, model_card
from pipeline.deployment.product import search_of
from pipeline.deployment.snippets import snippet
from pipeline.deployment.sources import Source
from pipeline.engines.search import BeamSearch, EngineRefusal
from pipeline.errors import StudyError
from pipeline.files import atomic_path, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.models.seq2seq import Model

    Tokenizers = tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]

SENTENCE = "How are you?"
"""What the snippet translates where the study's corpus is not at hand."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written: files by name with their bytes, the card's snippet with the directory's path in it."""

    directory: Path
    form: Form
    files: dict[str, int]
    code: str
    note: str | None


def check_target(directory: Path, *, overwrite: bool) -> None:
    """Raise StudyError where something stands that would be lost: of an earlier export, all that it did not write."""
    if directory.is_symlink() or directory.is_file():
        raise StudyError(f"{directory}: a file or a link stands there; give another directory")
    if Path.cwd().is_relative_to(directory.resolve()):
        raise StudyError(f"{directory}: the current directory is in it, and would be replaced; give another directory")
    if directory.is_dir() and any(directory.iterdir()):
        if not overwrite:
            raise StudyError(f"{directory}: not empty; give another directory, or --overwrite to replace it")
        path = directory / "run.json"
        record = export_record(read_json(path)) if path.is_file() else None
        if record is None:
            raise StudyError(f"{directory}: not something that `tlc export` wrote; remove it yourself, or give another")
        written = {directory / name for name in (*record.get("files", ()), "run.json", "README.md")}
        folders = {folder for file in written for folder in file.parents}
        for found in sorted(directory.rglob("*")):
            if found not in (folders if found.is_dir() and not found.is_symlink() else written):
                raise StudyError(f"{found}: not written by `tlc export`, and would be lost; move it elsewhere")


def export(
    source: Source,
    directory: str | Path,
    *,
    form: str | None = None,
    results: Path | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model into `directory`, whole or not at all.

    `form` names one of `FORMS` (default: what the model is deployed in; where that engine refuses it, packed, and the
    note says why). `results` is the study's results directory, for the card. StudyError where `directory` is in use and
    where the disk is full; EngineRefusal where the form cannot hold the model.
    """
    directory = Path(directory)
    check_target(directory, overwrite=overwrite)
    target = directory.resolve()
    chosen = form_named(form) if form is not None else None
    from pipeline.compression.activation_rounding import rounds_inputs
    from pipeline.compression.formats import stored_numbers
    from pipeline.corpora.tokenizers_of import source_and_target
    from pipeline.evaluation.translation import plain

    model = plain(source.directory)
    tokenizers = source_and_target(source.directory)
    search = BeamSearch(**source.search) if source.search else search_of(source.directory)
    search = BeamSearch(**asdict(search) | {"max_length": min(search.max_length, model.config.max_position_embeddings)})
    deployed = deployed_form(stored_numbers(source.directory)[0], rounds_inputs=rounds_inputs(model))
    attempt, note = chosen or deployed, None
    with _in_one_line(directory, target), atomic_path(target) as temporary:
        temporary.mkdir(parents=True)
        try:
            write_weights(attempt, model, tokenizers, source.directory, temporary)
        except EngineRefusal as refusal:
            if chosen is not None:
                raise
            attempt, note = FORMS[PACKED], f"{refusal}; exported packed"
            write_weights(attempt, model, tokenizers, source.directory, temporary)
        _complete(temporary, source, attempt, model, tokenizers, search, results)
    files = _sizes(directory)
    code = _snippet(attempt, source, tokenizers, search, directory)
    return Exported(directory=directory, form=attempt, files=files, code=code, note=note)


@contextmanager
def _in_one_line(directory: Path, target: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line; `target` is `directory` in full."""
    try:
        yield
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        place = error.filename and Path(error.filename)
        beside = str(target.parent / f".{target.name}.")  # how atomic_path names what it writes
        if place and not target.is_relative_to(place) and not str(place).startswith(beside):
            raise StudyError(f"{place}: cannot be read ({error.strerror}); see to its permissions") from error
        raise StudyError(f"{directory}: cannot be written ({error.strerror}); give another directory") from error


def _snippet(form: Form, source: Source, tokenizers: Tokenizers, search: BeamSearch, directory: Path) -> str:
    return snippet(
        form,
        search,
        suppressed=never_produced(tokenizers[1]),
        sentence=_sentence(source),
        directory=directory,
        separate=tokenizers[1] is not tokenizers[0],
    )


def _sizes(directory: Path) -> dict[str, int]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.stat().st_size for path in files}


def _sentence(source: Source) -> str:
    """Return a sentence of the study's test set, or `SENTENCE`."""
    path = Path("artifacts", str(source.run.get("study")), "corpus", "test-source.txt")
    if source.corpus is None or not path.is_file():
        return SENTENCE
    with path.open(encoding="utf-8") as lines:
        return next(lines, SENTENCE).strip()


def _complete(
    directory: Path,
    source: Source,
    form: Form,
    model: Model,
    tokenizers: Tokenizers,
    search: BeamSearch,
    results: Path | None,
) -> None:
    """Write what stands beside the weights."""
    from pipeline.compression.formats import size_bytes
    from pipeline.corpora.tokenizers_of import save_tokenizers

    positions = model.config.max_position_embeddings
    generation_settings(model, tokenizers[1], search).save_pretrained(directory)
    for tokenizer in tokenizers:
        tokenizer.model_max_length = positions
    save_tokenizers(directory, *tokenizers)
    for path in directory.rglob("tokenizer.json"):
        _cut_by_itself(path, positions)
    files = _sizes(directory)
    record = {
        "form": form.name,
        "positions": positions,
        "search": asdict(search),
        "files": files,
        "versions": _versions(form),
    }
    text = json.dumps(source.run | {"export": record}, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    (directory / "run.json").write_text(text + "\n", encoding="utf-8")
    engine = "torch" if form.name == PACKED else form.name
    card = model_card(
        CardFacts(
            source=source,
            form=form,
            measurements=read_measurements(
                results,
                source.run_id,
                engine=engine,
                size_bytes=size_bytes(source.directory),
                unmeasured=source.unmeasured,
            ),
            files=files,
            shape=_shape(model),
            positions=positions,
            max_length=search.max_length,
            beam=search.beam,
            code=_snippet(form, source, tokenizers, search, Path(".")),
        )
    )
    (directory / "README.md").write_text(card, encoding="utf-8")


def _cut_by_itself(path: Path, positions: int) -> None:
    """Have the saved tokenizer cut a line at the model's positions, </s> kept, in any program that loads it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(positions)
    tokenizer.no_padding()
    tokenizer.save(str(path), pretty=False)


def _shape(model: Model) -> str:
    config = model.config
    return (
        f"width {config.d_model}, {config.encoder_layers}+{config.decoder_layers} layers, "
        f"{config.encoder_attention_heads} heads, FFN {config.encoder_ffn_dim}, vocabulary {config.vocab_size}"
    )


def _versions(form: Form) -> dict[str, str]:
    found = {}
    for package in ("train-large-then-compress", "torch", "transformers", "tokenizers", *form.packages):
        name = package.partition("[")[0]
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
