"""python -m stages.time: latency of a study's dense models, alone on the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stages.entry import artifacts, one_thread, read_entry, run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    study: Annotated[str, typer.Option("--study", help="A study of params.yaml.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; artifacts/<study>/time by default.")] = None,
) -> None:
    """Time beam search on the dense models of a study's first seed: p50 and p95 by threads and batch size.

    Nothing else should run meanwhile. Example: python -m stages.time --study default
    """
    entry = read_entry("time", study)
    one_thread()
    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.evaluation.latency import measure_latency
    from pipeline.files import atomic_path, write_json
    from pipeline.models.checkpoint import load_dense
    from pipeline.progress import progress

    corpus = PreparedCorpus.open(artifacts(study, "corpus"))
    sentences = corpus.split("test").source_lines()[: entry["sentences"]]
    first: dict[str, dict[str, Any]] = {}
    everything: list[dict[str, Any]] = []
    models = [(key, match) for key in entry["runs"] for match in entry["matches"]]
    for key, match in progress(models, desc="time", unit="model"):
        directory = artifacts(study, "pretrain", key, match)
        if not directory.exists():
            continue
        records = measure_latency(
            load_dense(directory),
            corpus.tokenizer(),
            sentences,
            threads=entry["threads"],
            batches=entry["batches"],
            repeats=entry["repeats"],
            beam=entry["beam"],
            length_penalty=entry["length_penalty"],
            max_length=entry["max_length"],
        )
        run_id = f"{key}-{match}-fp32"
        first[run_id] = records[0]
        everything += [{"run_id": run_id} | record for record in records]
    final = out or artifacts(study, "time")
    with atomic_path(final) as temporary:
        temporary.mkdir(parents=True)
        write_json(temporary / "latency.json", first)
        write_json(temporary / "latencies.json", everything)
    print(f"{final}: timed {len(first)} models")


if __name__ == "__main__":
    run(app)
