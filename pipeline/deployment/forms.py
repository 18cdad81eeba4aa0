"""The forms that a model is exported in: what each is made of, and what a program needs to run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.errors import StudyError, nearest

PACKED, TRANSFORMERS = "packed", "transformers"


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form; `weights` is the type that an engine stores and computes with, None where the files say it themselves."""

    name: str
    family: str
    weights: str | None
    title: str
    library: str
    packages: tuple[str, ...]
    """What `pip install` must be given for the snippet; none: this project's own package."""


def _engine_forms() -> list[Form]:
    ctranslate2 = [
        Form(
            name=f"ctranslate2-{weights}",
            family="ctranslate2",
            weights=weights,
            title=f"CTranslate2 with {weights} weights",
            library="ctranslate2",
            packages=("ctranslate2", "tokenizers"),
        )
        for weights in ("float32", "int16", "int8")
    ]
    onnxruntime = [
        Form(
            name=f"onnxruntime-{weights}",
            family="onnxruntime",
            weights=weights,
            title=f"ONNX Runtime with {weights} weights",
            library="optimum",
            packages=("optimum-onnx[onnxruntime]",),
        )
        for weights in ("float32", "int8")
    ]
    return ctranslate2 + onnxruntime


FORMS = {
    form.name: form
    for form in (
        *_engine_forms(),
        Form(
            name=TRANSFORMERS,
            family=TRANSFORMERS,
            weights=None,
            title="transformers, every weight written in fp32 as the recipe left it",
            library="transformers",
            packages=("torch", "transformers"),
        ),
        Form(
            name=PACKED,
            family=PACKED,
            weights=None,
            title="the file whose size the study's table counts",
            library="train-large-then-compress",
            packages=(),
        ),
    )
}
"""Every form by name."""

CLASSIFIER_FORMS = {
    name: replace(form, library="onnxruntime", packages=("onnxruntime", "tokenizers"))
    if form.family == "onnxruntime"
    else form
    for name, form in FORMS.items()
    if form.family != "ctranslate2"
}
"""Every form of a classifier by name: CTranslate2 has no such encoder."""


def form_named(name: str, *, task: str = "translation") -> Form:
    """Return a task's form of this name; ``torch`` runs what is packed. StudyError on a name that is not one of them."""
    if name == "torch":
        name = PACKED
    if name not in FORMS:
        raise StudyError(f"no form {name!r} to export{nearest(name, FORMS)}")
    if task == "classification" and name not in CLASSIFIER_FORMS:
        raise StudyError(f"{name} runs no classifiers; export it with --engine {', '.join(CLASSIFIER_FORMS)}")
    return CLASSIFIER_FORMS[name] if task == "classification" else FORMS[name]


def deployed_form(bits: Mapping[str, int], *, rounds_inputs: bool, task: str = "translation") -> Form:
    """Return the form that a model is deployed in: what its row's latency was measured on.

    `bits` are those of its quantized matrices, by name; those of the embedding decide no more than they do in the row. What
    torch alone can run stays packed.
    """
    from pipeline.deployed import deployed_engine
    from pipeline.models.parameters import EMBEDDINGS

    widest = max((number for name, number in bits.items() if name not in EMBEDDINGS), default=None)
    return form_named(deployed_engine(bits=widest, activation_bits=8 if rounds_inputs else None, task=task), task=task)


def export_record(run: Any) -> dict[str, Any] | None:
    """Return what `export` wrote into a directory's run.json; None for a model directory that is no export."""
    record = run.get("export") if isinstance(run, Mapping) else None
    return dict(record) if isinstance(record, dict) else None
