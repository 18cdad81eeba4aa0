"""A row of the table, or a model directory, written as a product: weights, tokenizer, settings, card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.deployment.classifier_export import ClassifierExport
from pipeline.deployment.directory import check_target, in_one_line, sizes_of
from pipeline.deployment.forms import PACKED, Form, deployed_form, form_named
from pipeline.deployment.sources import Source
from pipeline.deployment.translation_export import TranslationExport
from pipeline.engines.search import EngineRefusal
from pipeline.errors import StudyError
from pipeline.files import atomic_path, read_json


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written: files by name with their bytes, the card's snippet with the directory's path in it."""

    directory: Path
    form: Form
    files: dict[str, int]
    code: str
    note: str | None


def export(
    source: Source,
    directory: str | Path,
    *,
    form: str | None = None,
    results: Path | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model into `directory`, whole or not at all.

    `form` names one of `FORMS`, of a classifier one of `CLASSIFIER_FORMS` (default: what the model is deployed in; where
    that engine refuses it, packed, and the note says why). `results` is the study's results directory, for the card.
    StudyError where `directory` is in use, where the disk is full, and on a masked language model, which is no product;
    EngineRefusal where the form cannot hold the model.
    """
    directory = Path(directory)
    check_target(directory, overwrite=overwrite)
    target = directory.resolve()
    task = _task(source)
    chosen = form_named(form, task=task) if form is not None else None
    from pipeline.compression.activation_rounding import rounds_inputs
    from pipeline.compression.formats import stored_numbers
    from pipeline.evaluation.translation import plain

    model = plain(source.directory)
    bits, _ = stored_numbers(source.directory)
    attempt, note = chosen or deployed_form(bits, rounds_inputs=rounds_inputs(model), task=task), None
    product = (
        ClassifierExport(source=source, model=model)
        if task == "classification"
        else TranslationExport(source=source, model=model)
    )
    with in_one_line(directory, target), atomic_path(target) as temporary:
        temporary.mkdir(parents=True)
        try:
            product.write(attempt, temporary, results=results)
        except EngineRefusal as refusal:
            if chosen is not None:
                raise
            attempt, note = form_named(PACKED, task=task), f"{refusal}; exported packed"
            product.write(attempt, temporary, results=results)
    return Exported(
        directory=directory, form=attempt, files=sizes_of(directory), code=product.code(attempt, directory), note=note
    )


def _task(source: Source) -> str:
    """Return ``translation`` or ``classification``; StudyError on a model that is neither's."""
    from pipeline.models.architectures import ENCODER

    config = read_json(source.directory / "config.json")
    if config.get("model_type") != ENCODER:
        return "translation"
    if "Classification" in (config.get("architectures") or [""])[0]:
        return "classification"
    raise StudyError(
        f"{source.directory}: an encoder that predicts masked words, no product; transformers' AutoModelForMaskedLM loads "
        "it as it is: export a classifier that was finetuned from it"
    )
