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
    """Time beam search on what the engines stage found right: p50 and p95 by threads and batch size.

    Nothing else should run meanwhile. Example: python -m stages.time --study default
    """
    entry = read_entry("time", study)
    one_thread()
    os.environ["TOKENIZERS_PARALLELISM"] = (
        "false"  # it would take every core, whatever the number of threads that is timed
    )
    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.deployed import timed
    from pipeline.evaluation.latency import measure_latencies
    from pipeline.expected import expected_models
    from pipeline.files import atomic_path, read_json, write_json

    pairs = [(one["run_id"], one["engine"]) for one in timed(read_json(artifacts(study, "engines", "engines.json")))]
    wanted = {run_id for run_id, _ in pairs}
    corpus = PreparedCorpus.open(artifacts(study, "corpus"))
    records = measure_latencies(
        pairs,
        {m.run_id: artifacts(study) / m.folder for m in expected_models(entry) if m.run_id in wanted},
        corpus.tokenizer(),
        corpus.pairs("test").source_lines()[: entry["sentences"]],
        threads=entry["threads"],
        batches=entry["batches"],
        repeats=entry["repeats"],
        beam=entry["beam"],
        length_penalty=entry["length_penalty"],
        max_length=entry["max_length"],
    )
    final = out or artifacts(study, "time")
    with atomic_path(final) as temporary:
        temporary.mkdir(parents=True)
        write_json(temporary / "latencies.json", records)
    print(f"{final}: timed {len(wanted)} models in {len({engine for _, engine in pairs})} engines")


if __name__ == "__main__":
    run(app)
