"""What the stages quantize and prune have in common: a family of recipes made of one trained run."""

from __future__ import annotations

from pathlib import Path

from stages.entry import artifacts, changed_entry, one_thread, work_folder


def make_family(stage: str, key: str, *, settings: list[str] | None, out: Path | None) -> str:
    """Make the family of `stage`'s entry `key` of params.yaml; return a summary line."""
    entry = changed_entry(stage, key, settings, out)
    one_thread()
    from pipeline.compression.families import compress
    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.evaluation.losses import validation_loss

    study = entry["study"]
    folder, parent = artifacts(study, "corpus"), artifacts(study, entry["parent"])
    corpus = PreparedCorpus.open_task(folder, entry["task"])
    return compress(
        entry,
        key=key,
        parent=parent,
        corpus=corpus,
        out=out or artifacts(study, "compressed", entry["run"], entry["family"]),
        work=work_folder(stage, key, entry, inputs=[folder, parent]),
        validate=validation_loss(corpus),
    )
