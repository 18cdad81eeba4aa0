"""A row of the table, or a model directory, written as a product: weights, tokenizer, settings, card."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.deployment.conversion import generation_settings, never_produced, write_weights
from pipeline.deployment.directory import check_target, in_one_line, sizes_of, versions_of, write_tokenizers
from pipeline.deployment.forms import FORMS, PACKED, Form, deployed_form, form_named
from pipeline.deployment.measurements import read_measurements
from pipeline.deployment.model_card import CardFacts, model_card
from pipeline.deployment.product import search_of
from pipeline.deployment.snippets import snippet
from pipeline.deployment.sources import Source
from pipeline.engines.search import BeamSearch, EngineRefusal
from pipeline.files import atomic_path

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
    with in_one_line(directory, target), atomic_path(target) as temporary:
        temporary.mkdir(parents=True)
        try:
            write_weights(attempt, model, tokenizers, source.directory, temporary)
        except EngineRefusal as refusal:
            if chosen is not None:
                raise
            attempt, note = FORMS[PACKED], f"{refusal}; exported packed"
            write_weights(attempt, model, tokenizers, source.directory, temporary)
        _complete(temporary, source, attempt, model, tokenizers, search, results)
    files = sizes_of(directory)
    code = _snippet(attempt, source, tokenizers, search, directory)
    return Exported(directory=directory, form=attempt, files=files, code=code, note=note)


def _snippet(form: Form, source: Source, tokenizers: Tokenizers, search: BeamSearch, directory: Path) -> str:
    return snippet(
        form,
        search,
        suppressed=never_produced(tokenizers[1]),
        sentence=_sentence(source),
        directory=directory,
        separate=tokenizers[1] is not tokenizers[0],
    )


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

    positions = model.config.max_position_embeddings
    generation_settings(model, tokenizers[1], search).save_pretrained(directory)
    write_tokenizers(directory, *tokenizers, max_tokens=positions)
    files = sizes_of(directory)
    record = {
        "form": form.name,
        "positions": positions,
        "search": asdict(search),
        "files": files,
        "versions": versions_of(form),
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


def _shape(model: Model) -> str:
    config = model.config
    return (
        f"width {config.d_model}, {config.encoder_layers}+{config.decoder_layers} layers, "
        f"{config.encoder_attention_heads} heads, FFN {config.encoder_ffn_dim}, vocabulary {config.vocab_size}"
    )
