"""python -m stages.engines: a study's models in the engines they are deployed in, outputs compared and scored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stages.entry import artifacts, one_thread, read_entry, run, work_folder

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    study: Annotated[str, typer.Option("--study", help="A study of params.yaml.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; artifacts/<study>/engines by default.")] = None,
) -> None:
    """Translate or classify the test set in every model's engine: compared with torch first, then scored.

    Example: python -m stages.engines --study default
    """
    entry = read_entry("engines", study)
    one_thread()
    from dataclasses import asdict

    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.deployed import plan_engines
    from pipeline.engines.registry import import_engines
    from pipeline.evaluation.engine_outputs import run_engines
    from pipeline.expected import expected_models
    from pipeline.files import read_json
    from pipeline.selection import rows_frame

    rows: list[dict[str, Any]] = []
    for key in (*entry["runs"], *entry["students"]):
        rows += read_json(artifacts(study, "evaluate", key, "rows.json"))
    plan = plan_engines(rows_frame(rows), entry)
    wanted = {planned.run_id for planned in plan}
    models = {m.run_id: artifacts(study) / m.folder for m in expected_models(entry) if m.run_id in wanted}
    corpus = PreparedCorpus.open_task(artifacts(study, "corpus"), entry["task"])
    import_engines()  # what is kept to go on from must not outlive a change of an engine, nor of the plan
    settings = entry | {"plan": [asdict(planned) for planned in plan]}
    print(
        run_engines(
            plan,
            models,
            search=entry,
            corpus=corpus,
            resamples=entry["resamples"],
            out=out or artifacts(study, "engines"),
            work=work_folder("engines", study, settings, inputs=[corpus.path, *models.values()]),
        )
    )


if __name__ == "__main__":
    run(app)
