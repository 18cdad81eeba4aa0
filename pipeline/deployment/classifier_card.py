"""README.md of an exported classifier: how often it is right, how large, how fast, how it was made, and on whose data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.deployment.card_sections import (
    NOT_MEASURED,
    Facts,
    data_name,
    data_section,
    header_of,
    interval,
    joined,
    latency_section,
    making_section,
    measured_best,
    size_section,
    table,
    use_section,
)
from pipeline.deployment.forms import PACKED, Form


@dataclass(frozen=True, kw_only=True)
class ClassifierFacts(Facts):
    """What a classifier's card is written from; `names` of its classes are None where they have only numbers."""

    classes: int
    names: list[str] | None


def _front_matter(facts: ClassifierFacts) -> dict[str, Any]:
    results = []
    if best := measured_best(facts):
        record, name = best
        metric = {"type": "accuracy", "name": f"accuracy, {name}", "value": round(float(record["quality"]), 2)}
        data = {"name": data_name(facts.source.corpus), "type": "labelled-sentences", "split": "test"}
        results.append({"task": {"type": "text-classification"}, "dataset": data, "metrics": [metric]})
    return header_of(facts, "text-classification", languages=[], results=results)


def _scores(record: dict[str, Any] | None) -> list[str]:
    if not record or "quality" not in record:
        return [NOT_MEASURED, ""]
    return [f"{record['quality']:.2f} %", interval(record)]


def _quality(facts: ClassifierFacts) -> Iterator[str]:
    row, engine = facts.measurements.row, facts.measurements.engine
    yield "## Quality"
    if row is None:
        yield f"Accuracy: {NOT_MEASURED} ({facts.measurements.missing})."
        return
    lines = [["the weights as the recipe left them, in fp32 arithmetic", *_scores(row)]]
    if facts.form.weights is not None:
        lines.append([f"what {facts.form.title} makes of them: this directory's own output", *_scores(engine)])
    yield table(["on the study's test set", "accuracy", "95 % interval"], lines)
    said = [f"`{row['signature']}`." if "signature" in row else "", "The interval is over test sentences alone."]
    said.append(f"Test loss {row['test_loss']:.4f} nats a sentence." if "test_loss" in row else "")
    yield " ".join(part for part in said if part)
    if engine and "same_hypotheses" in engine:
        yield f"{100 * engine['same_hypotheses']:.4g} % of the classes of {_compared(facts.form)}."
    if engine and "note" in engine:
        yield f"Note: {engine['note']}."


def _compared(form: Form) -> str:
    """Return what was compared with what, as pipeline.evaluation.class_outputs does it."""
    plain = "are those of the plain forward pass in torch"
    if form.weights == "int8":
        return (
            f"ONNX Runtime with float32 weights, converted from the same weights in the same way, {plain}; those of int8 were "
            "not compared: what the rounding does, the accuracy of this directory's own output says"
        )
    return f"{'torch, from text to class,' if form.name == PACKED else 'this engine'} {plain}"


def _limits(facts: ClassifierFacts) -> Iterator[str]:
    yield "## Limits"
    lines = [
        "- It was trained and tested on one collection; of other text nothing was measured.",
        f"- Of a text of more than {facts.positions} tokens the end is not read.",
        "- Text is expected in Unicode NFC with single spaces.",
    ]
    if facts.form.name == "onnxruntime-int8":
        lines.append(
            "- Inputs are rounded on the range of a whole batch: a class may change with the others of its batch."
        )
    yield "\n".join(lines)


def classifier_card(facts: ClassifierFacts) -> str:
    """Return README.md."""
    names = f" ({', '.join(facts.names)})" if facts.names else ""
    text = [
        f"# {facts.source.name}",
        f"A model that tells sentences of {facts.classes} classes apart{names}: {facts.shape}, as {facts.form.title}.",
        *use_section(facts, None),
        *_quality(facts),
        *size_section(facts),
        *latency_section(facts, "text to class"),
        *making_section(facts),
        *data_section(facts),
        *_limits(facts),
    ]
    return joined(_front_matter(facts), text)
