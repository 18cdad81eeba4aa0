"""python -m stages.time: latency of a study's models in their engines, alone on the machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from stages.entry import artifacts, one_thread, read_entry, run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    study: Annotated[str, typer.Option("--study", help="A study of params.yaml.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; artifacts/<study>/time by default.")] = None,
) -> None:
    """Time beam search, or classification, on what the engines stage found right: p50 and p95 by threads and batch size.

    Nothing else should run meanwhile. Example: python -m stages.time --study default
    """
    entry = read_entry("time", study)
    one_thread()
    os.environ["TOKENIZERS_PARALLELISM"] = (
        "false"  # it would take every core, whatever the number of threads that is timed
    )
    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.deployed import timed
    from pipeline.evaluation.classifier_latency import measure_classifier_latencies
    from pipeline.evaluation.latency import measure_latencies
    from pipeline.evaluation.text_to_class import SentenceEncoder
    from pipeline.expected import expected_models
    from pipeline.files import atomic_path, read_json, write_json

    pairs = [(one["run_id"], one["engine"]) for one in timed(read_json(artifacts(study, "engines", "engines.json")))]
    wanted = {run_id for run_id, _ in pairs}
    task = entry["task"]
    corpus = PreparedCorpus.open_task(artifacts(study, "corpus"), task)
    models = {m.run_id: artifacts(study) / m.folder for m in expected_models(entry) if m.run_id in wanted}
    settings = {name: entry[name] for name in ("threads", "batches", "repeats")}
    if task == "classification":
        lines, encode = corpus.sentences("test").lines(), SentenceEncoder.of_corpus(corpus)
        records = measure_classifier_latencies(pairs, models, encode, lines[: entry["sentences"]], **settings)
    else:
        lines, tokenizer = corpus.pairs("test").source_lines(), corpus.tokenizer()
        search = {name: entry[name] for name in ("beam", "length_penalty", "max_length")}
        records = measure_latencies(pairs, models, tokenizer, lines[: entry["sentences"]], **settings, **search)
    final = out or artifacts(study, "time")
    with atomic_path(final) as temporary:
        temporary.mkdir(parents=True)
        write_json(temporary / "latencies.json", records)
    print(f"{final}: timed {len(wanted)} models in {len({engine for _, engine in pairs})} engines")


if __name__ == "__main__":
    run(app)
