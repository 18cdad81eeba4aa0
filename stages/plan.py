"""python -m stages.plan: what a study will cost, before anything is spent; and params.yaml and dvc.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pipeline.assumed_speed import assumed_calibration
from pipeline.breakdown import breakdown
from pipeline.calibration import Calibration, calibration_path
from pipeline.errors import StudyError
from pipeline.params import PATH, combined, read_params, write_params
from pipeline.plan import TYPICAL_LENGTH, PlannedRun, plan
from pipeline.study import Study, load_study
from pipeline.text_corpus import EncoderCorpusSpec
from stages.entry import artifacts, run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

PADDING_BATCHES = 200
"""How many training batches padding is measured on."""


def _config(study: str) -> Path:
    """Return the YAML of a study given by name or by path."""
    return Path(study) if study.endswith((".yaml", ".yml")) else Path("configs", f"{study}.yaml")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _table(rows: list[PlannedRun]) -> str:
    lines = [
        f"{'run':36} {'params':>11} {'embedding':>10} {'rate':>8} {'steps':>7} {'FLOPs':>9} {'core-s':>9} {'MB':>6}"
    ]
    for row in rows:
        lines.append(
            f"{row.key:36} {row.params_total:>11,} {row.params_embedding:>10,} {row.learning_rate:>8.2g} "
            f"{_number(row.steps, 'd'):>7} {_number(row.train_flops, '.2e'):>9} {_number(row.core_seconds, '.0f'):>9} "
            f"{row.disk_bytes / 1e6:>6.1f}"
        )
    seconds = [row.core_seconds for row in rows]
    total = None if None in seconds else sum(value or 0 for value in seconds)
    disk = sum(row.disk_bytes for row in rows) / 1e6
    lines.append(f"{'total':36} {'':>11} {'':>10} {'':>8} {'':>7} {'':>9} {_number(total, '.0f'):>9} {disk:>6.1f}")
    return "\n".join(lines)


def _head(title: str, names: list[str]) -> str:
    return f"{title:24}" + "".join(f" {name.replace('_attention', ' att.'):>12}" for name in names)


def _row(label: str, cells: Mapping[str, float]) -> str:
    return f"{label:24}" + "".join(f" {value:>12,.0f}" for value in cells.values())


def _breakdown_table(study: Study) -> str:
    rows = breakdown(study)
    lines = ["", _head("parameters", [*rows[0].parameters, "total"])]
    for row in rows:
        lines.append(_row(row.size, row.parameters | {"total": sum(row.parameters.values())}))
    what = (
        f"FLOPs a token, blocks of {study.corpus.sequence_tokens} tokens"
        if isinstance(study.corpus, EncoderCorpusSpec)
        else f"FLOPs a target token, sentences of {TYPICAL_LENGTH} tokens, without padding"
    )
    lines += ["", what]
    lines.append(_head("matmul", [*rows[0].forward_flops, "total"]))
    for row in rows:
        for name, flops in (("forward", row.forward_flops), ("backward", row.backward_flops)):
            lines.append(_row(f"{row.size} {name}", flops | {"total": sum(flops.values())}))
    lines.append(_head("element-wise", [*rows[0].elementwise_flops, "% of matmul"]))
    for row in rows:
        matmul = sum(row.forward_flops.values()) + sum(row.backward_flops.values())
        share = 100 * sum(row.elementwise_flops.values()) / matmul
        lines.append(f"{_row(row.size, row.elementwise_flops)} {share:>12.1f}")
    return "\n".join(lines)


def _padding(study: Study) -> str:
    """Return a line: how much of each size's training FLOPs is padding, in the first batches that seed 0 sees."""
    if not artifacts(study.name, "corpus").exists():
        return f"padding: not known before the corpus is prepared (dvc repro prepare@{study.name})"
    from itertools import islice

    from pipeline.corpora.prepared import PreparedCorpus
    from pipeline.corpora.streams import open_stream
    from pipeline.training.pricing import padding_share

    corpus = PreparedCorpus.open_task(artifacts(study.name, "corpus"), study.task)
    stream = open_stream(corpus.split("train"), batch_tokens=study.training.batch_tokens, seed=0)
    batches = list(islice(stream, PADDING_BATCHES))
    shares = [f"{s.key} {100 * padding_share(s, batches, vocab_size=corpus.vocab_size):.1f} %" for s in study.sizes]
    return f"padding in {len(batches)} training batches, of FLOPs: {', '.join(shares)}"


@app.command()
def main(
    studies: Annotated[
        list[str] | None,
        typer.Option("--study", help="A study's name or YAML; repeatable. Those of params.yaml by default."),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write params.yaml and dvc.yaml for these studies.")] = False,
    flops: Annotated[
        bool, typer.Option("--flops", help="Print parameters by group, FLOPs by part and padding, too.")
    ] = False,
    gflops: Annotated[
        float | None,
        typer.Option(
            min=1e-3,
            help="Price every size at this assumed speed (GFLOP/s of a device) instead of as it was calibrated.",
        ),
    ] = None,
) -> None:
    """Print a study's runs with parameters, FLOPs, core-seconds and disk, before anything is spent.

    Examples: tlc plan --study configs/default.yaml
              tlc plan --study default --flops
              tlc plan --study configs/paper_mlm.yaml --gflops 100000
              tlc plan --study configs/default.yaml --study configs/mine.yaml --write
    """
    if gflops and write:
        raise StudyError("--gflops assumes a speed, and --write counts on measured ones; give one of them")
    if studies:
        configs = [_config(study) for study in studies]
    elif PATH.exists():
        configs = [Path(record["config"]) for record in read_params()["studies"].values()]
    else:
        raise StudyError("no params.yaml here yet; name a study: tlc plan --study configs/default.yaml --write")
    loaded: list[Study] = [load_study(config) for config in configs]
    for study in loaded:
        calibration = assumed_calibration(study, gflops=gflops) if gflops else Calibration.load(study.name)
        rows = plan(study, calibration)
        print(f"{study.name}: budgets {', '.join(study.budgets.values())}\n{_table(rows)}")
        if any(row.core_seconds is None for row in rows):
            print(
                f"- = not known before calibration ({calibration_path(study.name)}): tlc plan --write; dvc repro prepare@{study.name}; "
                f"tlc calibrate --study {study.name}; tlc plan --write"
            )
        if flops:
            print(f"{_breakdown_table(study)}\n{_padding(study)}")
    if write:
        from pipeline.graph import write_graph

        params = combined(configs)
        write_params(params)
        write_graph(params)
        print("wrote params.yaml and dvc.yaml")


if __name__ == "__main__":
    run(app)
