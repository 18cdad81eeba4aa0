"""Sections of a model card that are the same whatever the model does: size, latency, how it was made, data.

Every number is a measurement's, named with what was measured; what was not says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.budget import Ledger
from pipeline.deployment.forms import PACKED, Form
from pipeline.deployment.imports import is_imported, origin, stated
from pipeline.deployment.measurements import Measurements
from pipeline.deployment.sources import Source

NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a card is written from; `shape` is one clause, `files` maps names to bytes, `code` is the snippet.

    `positions` are the most tokens of a text that the model reads.
    """

    source: Source
    form: Form
    measurements: Measurements
    files: dict[str, int]
    shape: str
    positions: int
    code: str


def data_name(corpus: dict[str, Any] | None) -> str:
    """Return what a header calls the data."""
    return str(corpus["credit"]) if corpus and stated(corpus["credit"]) else "unknown"


def header_of(facts: Facts, task: str, *, languages: list[str], results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the YAML header: only keys that are known; `results` are the model index', empty where nothing was measured."""
    run, corpus = facts.source.run, facts.source.corpus
    tags = [task, facts.form.family]
    tags += ["quantized"] if run.get("bits") or facts.form.weights == "int8" else []
    tags += ["pruned"] if run.get("sparsity") else []
    tags += ["distilled"] if "distill" in str(run.get("method")) else []
    header: dict[str, Any] = {"language": languages} if languages else {}
    if corpus and stated(corpus["license"]):
        header |= {"license": "other", "license_name": corpus["license"]}
    header |= {"library_name": facts.form.library, "pipeline_tag": task, "tags": list(dict.fromkeys(tags))}
    if results:
        header["metrics"] = list(dict.fromkeys(metric["type"] for one in results for metric in one["metrics"]))
        header["model-index"] = [{"name": facts.source.name, "results": results}]
    return header


def measured_best(facts: Facts) -> tuple[dict[str, Any], str] | None:
    """Return the record whose quality the header says, with what it is of: the form's own output, else the weights'."""
    row, engine = facts.measurements.row, facts.measurements.engine
    if not row or "quality" not in row:
        return None
    return (engine, facts.form.title) if engine and "quality" in engine else (row, "weights in fp32 arithmetic")


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bytes(count: int) -> str:
    return f"{count:,} bytes"


def interval(record: dict[str, Any]) -> str:
    """Return the interval of a record's quality, empty where it has none."""
    if "quality_low" not in record or "quality_high" not in record:
        return ""
    return f"{record['quality_low']:.1f} to {record['quality_high']:.1f}"


def size_section(facts: Facts) -> Iterator[str]:
    """Yield the files' bytes, and what the study's table counts."""
    yield "## Size"
    row, total = facts.measurements.row, sum(facts.files.values())
    yield table(["file", "bytes"], [[f"`{name}`", f"{size:,}"] for name, size in facts.files.items()])
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
    if value is None or value != value:
        return NOT_MEASURED
    return f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def latency_section(facts: Facts, what: str) -> Iterator[str]:
    """Yield the times; `what` is timed, such as ``text to text``."""
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
    yield table(["threads", "sentences a batch", "p50 a batch", "p95 a batch"], rows)
    yield f"{facts.form.title}, {what}, on the machine where the study ran: another machine has other times."


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


def making_section(facts: Facts) -> Iterator[str]:
    """Yield what made the model, and what that cost."""
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


def data_section(facts: Facts) -> Iterator[str]:
    """Yield licence and credit of the data."""
    corpus = facts.source.corpus
    yield "## Data"
    if corpus is None or not (stated(corpus["license"]) or stated(corpus["credit"])):
        yield "Licence and credit of the training data are not known to the program that wrote this card."
        return
    yield f"Licence of the training data: {corpus['license']}. Credit: {corpus['credit']}."


def use_section(facts: Facts, further: str | None) -> Iterator[str]:
    """Yield how it is run; `further` is one more way."""
    yield "## Use it"
    yield (
        f"`pip install {' '.join(facts.form.packages)}`, then in this directory:"
        if facts.form.packages
        else "This form is read by the package train-large-then-compress alone. With it installed, in this directory:"
    )
    yield f"```python\n{facts.code}\n```"
    if further is not None:
        yield further


def joined(header: dict[str, Any], paragraphs: list[str]) -> str:
    """Return README.md."""
    front = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{front}---\n\n" + "\n\n".join(paragraphs) + "\n"
