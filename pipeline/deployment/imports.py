"""What is particular to an imported model: what its text must look like, and what its run.json cannot know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.models.checkpoint import NOT_STATED

STUDY = "imported"
"""What stands for the study in an import's run.json, as in pipeline.models.fairseq_import."""

_UNITS = {
    "none": "words between spaces",
    "subword_nmt": "units with @@ (subword-nmt) between spaces",
    "sentencepiece": "sentencepiece units between spaces",
}


def is_imported(run: Mapping[str, Any]) -> bool:
    """Tell whether a run.json is of an imported model, or of one that was compressed from such a model."""
    return bool(run.get("imported")) or run.get("study") == STUDY


def stated(value: Any) -> bool:
    """Tell whether somebody said this."""
    return value is not None and value != NOT_STATED


def origin(run: Mapping[str, Any]) -> str | None:
    """Return where an imported model comes from; None where its run.json does not say it."""
    facts = run.get("imported") or {}
    if "program" not in facts:
        return None
    known = [f"`{facts['checkpoint']}`"] if facts.get("checkpoint") else []
    known += [f"({facts['arch']})"] if facts.get("arch") else []
    known += [f"after {run['steps']} updates"] if run.get("steps") else []
    return f"imported from {facts['program']}: {' '.join(known)}" if known else f"imported from {facts['program']}"


def text_notes(run: Mapping[str, Any]) -> list[str]:
    """Return what must be known of an imported model's text, sentence by sentence."""
    facts = run.get("imported") or {}
    joining = str(facts.get("joining"))
    # `joining` is the target's; with one dictionary it is the source's too.
    units = _UNITS.get(joining) if len(facts.get("dictionaries") or []) == 1 else None
    came = "" if units is None else f": {units}"
    notes = [
        f"Text must come in tokenised and split into units as the model was trained on it{came}; nothing here does that."
    ]
    if joining in _UNITS:
        out = "as they are" if joining == "none" else "with their units joined, still tokenised"
        notes.append(f"Translations come out {out}.")
    notes.append("One line is one sentence. `tlc translate` makes every run of spaces one and changes no character.")
    return notes
