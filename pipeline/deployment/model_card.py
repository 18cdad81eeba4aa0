"""README.md of an exported translation model: how good, how large, how fast, how it was made, and whose data it learnt from.

Every number is a measurement's, named with what was measured; what was not says so.
"""

from __future__ import annotations

import re
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
from pipeline.deployment.imports import is_imported, stated, text_notes

_LANGUAGE = re.compile("[a-z]{2,3}(-[A-Za-z]+)*")


@dataclass(frozen=True, kw_only=True)
class CardFacts(Facts):
    """What a translation model's card is written from."""

    max_length: int
    beam: int


def front_matter(facts: CardFacts) -> dict[str, Any]:
    """Return the YAML header: only keys that are known, and metrics only where they were measured."""
    corpus, results = facts.source.corpus, []
    languages = [corpus[side] for side in ("source_lang", "target_lang")] if corpus else []
    if best := measured_best(facts):
        record, name = best
        metrics = [{"type": "bleu", "name": f"BLEU, {name}", "value": round(float(record["quality"]), 2)}]
        if "chrf" in record:
            metrics.append({"type": "chrf", "name": f"chrF, {name}", "value": round(float(record["chrf"]), 2)})
        data = {"name": data_name(corpus), "type": "parallel-sentences", "split": "test"}
        results.append({"task": {"type": "translation"}, "dataset": data, "metrics": metrics})
    known = languages if all(map(_LANGUAGE.fullmatch, languages)) else []
    return header_of(facts, "translation", languages=known, results=results)


def _scores(record: dict[str, Any] | None) -> list[str]:
    if not record or "quality" not in record:
        return [NOT_MEASURED, "", ""]
    return [f"{record['quality']:.2f}", interval(record), f"{record['chrf']:.2f}" if "chrf" in record else ""]


def _quality(facts: CardFacts) -> Iterator[str]:
    row, engine = facts.measurements.row, facts.measurements.engine
    yield "## Quality"
    if row is None:
        yield f"BLEU and chrF: {NOT_MEASURED} ({facts.measurements.missing})."
        return
    lines = [["the weights as the recipe left them, in fp32 arithmetic", *_scores(row)]]
    if facts.form.weights is not None:
        lines.append([f"what {facts.form.title} makes of them: this directory's own output", *_scores(engine)])
    yield table(["on the study's test set", "BLEU", "95 % interval", "chrF"], lines)
    said = [f"BLEU: `{row['signature']}`." if "signature" in row else "", "The interval is over test sentences alone."]
    said.append(f"chrF: `{row['chrf_signature']}`." if "chrf_signature" in row else "")
    said.append(f"Test loss {row['test_loss']:.4f} nats a token." if "test_loss" in row else "")
    said.append(f"Beam {facts.beam}, at most {facts.max_length} tokens a translation.")
    yield " ".join(part for part in said if part)
    if engine and "same_hypotheses" in engine:
        yield f"{100 * engine['same_hypotheses']:.4g} % of the greedy hypotheses of {_compared(facts.form)}."
    if engine and "note" in engine:
        yield f"Note: {engine['note']}."


def _compared(form: Form) -> str:
    """Return what was compared with what, as pipeline.evaluation.engine_outputs does it."""
    if form.name == PACKED:
        return "our own decoder, which runs this form, are those of transformers' generate"
    if form.weights in ("int8", "int16"):
        library = form.title.partition(" with ")[0]
        return (
            f"{library} with float32 weights, converted from the same weights in the same way, are those of our own decoder; "
            f"those of {form.weights} were not compared: what the rounding does, the BLEU of this directory's own output says"
        )
    return "this engine are those of our own decoder"


def _limits(facts: CardFacts) -> Iterator[str]:
    yield "## Limits"
    corpus = facts.source.corpus
    lines = [
        f"- A source of more than {facts.positions} tokens loses its end; a translation has at most {facts.max_length}.",
    ]
    if is_imported(facts.source.run):
        lines += [f"- {note}" for note in text_notes(facts.source.run)]
    else:
        lines.append(
            "- One line is one sentence. Text is expected in Unicode NFC with single spaces; `tlc translate` sees to that."
        )
    if corpus and "max_tokens" in corpus:
        lines.insert(
            0,
            f"- It has learnt from sentences of at most {corpus['max_tokens']} tokens, of one collection; on longer or other "
            "text nothing was measured.",
        )
    if facts.form.name == "onnxruntime-int8":
        lines.append(
            "- Inputs are rounded on the range of a whole batch: a translation may change with the others of its batch."
        )
    yield "\n".join(lines)


def model_card(facts: CardFacts) -> str:
    """Return README.md."""
    corpus = facts.source.corpus
    pair = (corpus["source_lang"], corpus["target_lang"]) if corpus else (None, None)
    languages = f" from {pair[0]} to {pair[1]}" if all(map(stated, pair)) else ""
    text = [
        f"# {facts.source.name}",
        f"A model that translates{languages}: {facts.shape}, as {facts.form.title}.",
        *use_section(
            facts,
            "With the package train-large-then-compress, whole files: `tlc translate --model . < in.txt > out.txt`.",
        ),
        *_quality(facts),
        *size_section(facts),
        *latency_section(facts, "text to text"),
        *making_section(facts),
        *data_section(facts),
        *_limits(facts),
    ]
    return joined(front_matter(facts), text)
