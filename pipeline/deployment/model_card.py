"""README.md of an exported directory: how good, how large, how fast, how it was made, and whose data it learnt from.

Every number is a measurement's, named with what was measured; what was not says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.budget import Ledger
from pipeline.deployment.forms import PACKED, Form
from pipeline.deployment.imports import is_imported, origin, stated, text_notes
from pipeline.deployment.measurements import Measurements
from pipeline.deployment.sources import Source

NOT_MEASURED = "not measured"
_LANGUAGE = re.compile("[a-z]{2,3}(-[A-Za-z]+)*")


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card is written from; `shape` is one clause, `files` maps names to bytes, `code` is the snippet."""

    source: Source
    form: Form
    measurements: Measurements
    files: dict[str, int]
    shape: str
    positions: int
    max_length: int
    beam: int
    code: str


def front_matter(facts: CardFacts) -> dict[str, Any]:
    """Return the YAML header: only keys that are known, and metrics only where they were measured."""
    corpus, row, engine = facts.source.corpus, facts.measurements.row, facts.measurements.engine
    tags = ["translation", facts.form.family]
    run = facts.source.run
    tags += ["quantized"] if run.get("bits") or facts.form.weights == "int8" else []
    tags += ["pruned"] if run.get("sparsity") else []
    tags += ["distilled"] if "distill" in str(run.get("method")) else []
    header: dict[str, Any] = {}
    if corpus:
        languages = [corpus[side] for side in ("source_lang", "target_lang")]
        header |= {"language": languages} if all(map(_LANGUAGE.fullmatch, languages)) else {}
        header |= {"license": "other", "license_name": corpus["license"]} if stated(corpus["license"]) else {}
    header |= {"library_name": facts.form.library, "pipeline_tag": "translation", "tags": list(dict.fromkeys(tags))}
    if row and "quality" in row:
        header["metrics"] = ["bleu", "chrf"]
        best, name = (
            (engine, facts.form.title) if engine and "quality" in engine else (row, "weights in fp32 arithmetic")
        )
        metrics = [{"type": "bleu", "name": f"BLEU, {name}", "value": round(float(best["quality"]), 2)}]
        if "chrf" in best:
            metrics.append({"type": "chrf", "name": f"chrF, {name}", "value": round(float(best["chrf"]), 2)})
        data = {"name": _data_name(corpus), "type": "parallel-sentences", "split": "test"}
        result = {"task": {"type": "translation"}, "dataset": data, "metrics": metrics}
        header["model-index"] = [{"name": facts.source.name, "results": [result]}]
    return header


def _data_name(corpus: dict[str, Any] | None) -> str:
    return str(corpus["credit"]) if corpus and stated(corpus["credit"]) else "unknown"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bytes(count: int) -> str:
    return f"{count:,} bytes"


def _scores(record: dict[str, Any] | None) -> list[str]:
    if not record or "quality" not in record:
        return [NOT_MEASURED, "", ""]
    interval = (
        f"{record['quality_low']:.1f} to {record['quality_high']:.1f}"
        if "quality_low" in record and "quality_high" in record
        else ""
    )
    return [f"{record['quality']:.2f}", interval, f"{record['chrf']:.2f}" if "chrf" in record else ""]


def _quality(facts: CardFacts) -> Iterator[str]:
    row, engine = facts.measurements.row, facts.measurements.engine
    yield "## Quality"
    if row is None:
        yield f"BLEU and chrF: {NOT_MEASURED} ({facts.measurements.missing})."
        return
    lines = [["the weights as the recipe left them, in fp32 arithmetic", *_scores(row)]]
    if facts.form.weights is not None:
        lines.append([f"what {facts.form.title} makes of them: this directory's own output", *_scores(engine)])
    yield _table(["on the study's test set", "BLEU", "95 % interval", "chrF"], lines)
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


def _size(facts: CardFacts) -> Iterator[str]:
    yield "## Size"
    row, total = facts.measurements.row, sum(facts.files.values())
    yield _table(["file", "bytes"], [[f"`{name}`", f"{size:,}"] for name, size in facts.files.items()])
    ratio = (
        f", {row['compression_ratio']:.2f} times smaller than the size that was trained in dense fp32"
        if row and "compression_ratio" in row
        else ""
    )
    counted = (
        f" The weights in the study's own format, which its table counts: {_bytes(row['size_bytes'])}{ratio}."
        if row
        else ""
    )
    yield f"Together {_bytes(total)}.{counted}"
    bits = facts.source.run.get("bits")
    if bits and bits < 8 and facts.form.name != PACKED:
        yield f"No engine computes in fewer than 8 bits: of weights rounded to {bits} bits this form holds what they are worth."


def _milliseconds(value: float | None) -> str:
    return NOT_MEASURED if value is None or value != value else f"{value:.1f} ms"


def _latency(facts: CardFacts) -> Iterator[str]:
    yield "## Latency"
    if not facts.measurements.timings:
        yield f"In this form: {NOT_MEASURED}."
        return
    rows = [
        [
            f"{t['threads']:.0f}",
            f"{t['batch']:.0f}",
            *(_milliseconds(t.get(f"latency_ms_{part}")) for part in ("p50", "p95")),
        ]
        for t in facts.measurements.timings
    ]
    yield _table(["threads", "sentences a batch", "p50 a batch", "p95 a batch"], rows)
    yield f"{facts.form.title}, text to text, on the machine where the study ran: another machine has other times."


def _spent(run: dict[str, Any]) -> str:
    """Return what was charged; a run whose steps nobody has timed (`tlc compress`) adds no seconds to its parent's."""
    ledger = Ledger.from_dict(run["ledger"])
    counted = (run.get("entry") or {}).get("counts_seconds", True)
    parts = []
    for purpose in run["ledger"]:
        charge = ledger.of(purpose)
        seconds = f"{charge.seconds:.1f} s" if counted or charge.seconds else "seconds not counted"
        parts.append(f"{purpose} {seconds}, {charge.flops:.3g} FLOP")
    total = ledger.total
    seconds = f"{total.seconds:.1f} device seconds, " if counted else ""
    return f"{'; '.join(parts)}; together {seconds}{total.flops:.3g} FLOP"


def _making(facts: CardFacts) -> Iterator[str]:
    run = facts.source.run
    yield "## How it was made"
    lines = [f"- model: {facts.shape}"]
    came = origin(run)
    lines += [f"- {came}"] if came else []
    lines += [f"- {', '.join(known)}" for known in (_names(run), _settings(run)) if known]
    if run.get("steps_of_recipe"):
        steps = ["; ".join(_step(step) for step in run["steps_of_recipe"])]
        lines.append(f"- recipe `{run['recipe']}`: {steps[0]}")
    elif run.get("recipe") and not came:
        lines.append(f"- recipe `{run['recipe']}`: trained, not compressed")
    if run.get("parent_id"):
        kind = "teacher" if run.get("method") == "distill" else "parent"
        lines.append(f"- {kind}: `{run['parent_id']}`")
    if run.get("quantized_tensors"):
        lines.append(f"- bits in the study's format: {run['quantized_tensors']}")
    if run.get("sparsity") is not None:
        lines.append(f"- sparsity {run['sparsity']}")
    if run.get("ledger"):
        lines.append(f"- charged: {_spent(run)}")
    lines.append(f"- this directory: {facts.form.title}; `run.json` has every setting, and the versions that wrote it")
    yield "\n".join(lines)


def _names(run: dict[str, Any]) -> list[str]:
    known = [f"study `{run['study']}`"] if stated(run.get("study")) and not is_imported(run) else []
    known += [f"run `{run['run_id']}`"] if stated(run.get("run_id")) else []
    return known + ([f"seed {run['seed']}"] if stated(run.get("seed")) else [])


def _settings(run: dict[str, Any]) -> list[str]:
    """Return budget, match and method; `tlc compress` matches nothing and has the name of a resource in its place."""
    matched = stated(run.get("match")) and (run.get("entry") or {}).get("counts_seconds", True)
    known = [f"budget {run['budget']}"] if stated(run.get("budget")) else []
    known += [f"matched in {run['match']}"] if matched else []
    method = run.get("method")
    return known + ([f"method {method}"] if stated(method) and method != "none" else [])


def _step(step: dict[str, Any]) -> str:
    idle = {"method"} | ({"group_size"} if step.get("granularity") in ("row", "tensor") else set())
    settings = [f"{name} {value}" for name, value in step.items() if name not in idle and value not in (None, [])]
    return f"{step['method']} ({', '.join(settings)})" if settings else str(step["method"])


def _data(facts: CardFacts) -> Iterator[str]:
    corpus = facts.source.corpus
    yield "## Data"
    if corpus is None or not (stated(corpus["license"]) or stated(corpus["credit"])):
        yield "Licence and credit of the training data are not known to the program that wrote this card."
        return
    yield f"Licence of the training data: {corpus['license']}. Credit: {corpus['credit']}."


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


def _use(facts: CardFacts) -> Iterator[str]:
    yield "## Use it"
    needed = (
        f"`pip install {' '.join(facts.form.packages)}`, then in this directory:"
        if facts.form.packages
        else "This form is read by the package train-large-then-compress alone. With it installed, in this directory:"
    )
    yield needed
    yield f"```python\n{facts.code}\n```"
    yield "With the package train-large-then-compress, whole files: `tlc translate --model . < in.txt > out.txt`."


def model_card(facts: CardFacts) -> str:
    """Return README.md."""
    header = yaml.safe_dump(front_matter(facts), sort_keys=False, allow_unicode=True, width=120)
    corpus = facts.source.corpus
    pair = (corpus["source_lang"], corpus["target_lang"]) if corpus else (None, None)
    languages = f" from {pair[0]} to {pair[1]}" if all(map(stated, pair)) else ""
    text = [
        f"# {facts.source.name}",
        f"A model that translates{languages}: {facts.shape}, as {facts.form.title}.",
        *_use(facts),
        *_quality(facts),
        *_size(facts),
        *_latency(facts),
        *_making(facts),
        *_data(facts),
        *_limits(facts),
    ]
    return f"---\n{header}---\n\n" + "\n\n".join(text) + "\n"
