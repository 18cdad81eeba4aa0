"""Which engine a model is deployed in, and which models are run in which engines, decided before anything is timed.

Torch-free and free of analysis/, as pipeline/selection.py: the engines stage asks it what to run, the time stage what to
time. Only rows of the evaluate stage are looked at, so that the same study gives the same choice on any machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.run_id import parse_run_id
from pipeline.selection import PRIMARY_MATCH, configurations, heavy, light

WITHOUT_REFUSAL = "torch"
"""Our own decoder, a classifier's own forward pass: where a model is deployed that no other engine takes."""

FAMILIES = {"translation": "ctranslate2", "classification": "onnxruntime"}
"""The engine in which a task's models are deployed, in fp32 or in int8."""

NARROWEST_BITS = 8
"""No engine computes in fewer: what is written in fewer runs as int8."""

_SHAPE = ("d_model", "num_layers", "num_heads", "ffn_dim")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One model in one engine.

    `first` seeds are compared with torch and timed, the others only run; `note` is what the row says.
    Where inputs are rounded `engine` is that of the weights alone: it refuses, and the row shows that and torch.
    """

    run_id: str
    engine: str
    deployed: bool
    first: bool
    note: str | None = None


def deployed_engine(*, bits: float | None, activation_bits: float | None, task: str = "translation") -> str:
    """Return the engine for a task's weights of so many bits, None or NaN for fp32, and inputs rounded to so many.

    What rounds its inputs on calibrated ranges is computed so by torch alone.
    """
    if pd.notna(activation_bits):
        return WITHOUT_REFUSAL
    return _engine_of_weights(bits, task)


def _engine_of_weights(bits: float | None, task: str) -> str:
    return f"{FAMILIES[task]}-{'float32' if pd.isna(bits) else 'int8'}"


def note_of(engine: str, *, bits: float | None) -> str | None:
    """Return what a row says of weights that an engine computes in other bits than they are written in; None otherwise."""
    if bits is None or pd.isna(bits):
        return None
    if not engine.endswith("-int8"):
        return f"its {bits:.0f}-bit weights run as {engine.partition('-')[2] or 'float32'}"
    return f"its {bits:.0f}-bit weights run as int8" if bits < NARROWEST_BITS else None


def plan_engines(frame: pd.DataFrame, entry: dict[str, Any]) -> list[Planned]:
    """Return every (model, engine) to run, in the order of a `pipeline.selection.rows_frame`; each pair once.

    All seeds of a configuration go through the engine it is deployed in; those configurations are

    - of every match, kept shape, engine and side (light, heavy) the eligible one of best mean validation loss: another of
      the same shape in the same engine is worse and does nearly the same work (hypotheses differ a little in length), so
      that to time all of them would cost hours and hardly ever change a choice;
    - all dense ones, and every distilled student in fp32 and in its best quantized form;
    - one of every kind of recipe (``width+ffn+distill``) that leaves another shape than was trained;
    - one whose inputs are rounded.

    The engines of `entry`'s `compared` take the first seed of the dense models of `compared_sizes` (None: all), of the
    best model of another shape than was trained, and of the best student. `entry` has the study's `recipes` too, and its
    `task` where that is not translation.
    """
    configs = _configurations(frame, entry)
    compared = {(PRIMARY_MATCH, name) for name in _compared(configs, entry)}
    chosen = {
        *_fastest(configs),
        *_dense(configs),
        *_students(configs),
        *_shapes(configs),
        *_rounding(configs),
        *compared,
    }
    plan: dict[tuple[str, str], Planned] = {}
    for config in configs.itertuples():
        place = (str(config.match), str(config.config_id))
        if place not in chosen:
            continue
        for number, run_id in enumerate(config.measured):
            asked = _engine_of_weights(config.bits, _task(entry))
            for engine in (asked, *(entry["compared"] if place in compared and number == 0 else ())):
                note = note_of(engine, bits=config.bits)
                planned = Planned(run_id=run_id, engine=engine, deployed=engine == asked, first=number == 0, note=note)
                plan.setdefault((run_id, engine), planned)
    order = {run_id: number for number, run_id in enumerate(frame["run_id"])}
    return sorted(plan.values(), key=lambda planned: order[planned.run_id])


def _task(entry: dict[str, Any]) -> str:
    return str(entry.get("task", "translation"))


def timed(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the engines stage's records to time: of status ``ok``, of each configuration's first seed."""
    listed = list(records)
    names = {record["run_id"]: parse_run_id(record["run_id"]) for record in listed}
    first: dict[tuple[str, str], int] = {}
    for name in names.values():
        place = (name["match"], name["config_id"])
        first[place] = min(first.get(place, name["seed"]), name["seed"])
    for record in listed:
        name = names[record["run_id"]]
        if record["status"] == "ok" and name["seed"] == first[name["match"], name["config_id"]]:
            yield record


Place = tuple[str, str]
"""A configuration: its match and its config_id."""


def _configurations(frame: pd.DataFrame, entry: dict[str, Any]) -> pd.DataFrame:
    """Return `configurations` of what was measured, with engine, kind, shape and what was trained, in one line each."""
    measured = frame[frame["status"] == "ok"]
    measured = measured.reindex(columns=[*measured.columns, *({*_SHAPE, "activation_bits"} - {*measured.columns})])
    configs = configurations(frame)
    by_run = measured.set_index("run_id")
    configs["measured"] = [[run_id for run_id in run_ids if run_id in by_run.index] for run_ids in configs["run_ids"]]
    configs = configs[configs["measured"].map(bool)].reset_index(drop=True)
    firsts = by_run.loc[[run_ids[0] for run_ids in configs["measured"]]].reset_index()
    for column in (*_SHAPE, "activation_bits"):
        configs[column] = firsts[column]
    configs["engine"] = [
        deployed_engine(bits=bits, activation_bits=inputs, task=_task(entry))
        for bits, inputs in zip(configs["bits"], configs["activation_bits"], strict=True)
    ]
    configs["kind"] = [entry["recipes"].get(recipe, {"kind": "none"})["kind"] for recipe in configs["recipe"]]
    dense = configs[(configs["recipe"] == "fp32") & configs["teaching"].isna()]
    trained = {line.size: tuple(getattr(line, name) for name in _SHAPE) for line in dense.itertuples()}
    configs["reshaped"] = [
        trained.get(line.size, shape) != shape
        for line in configs.itertuples()
        for shape in [tuple(getattr(line, name) for name in _SHAPE)]
    ]
    return configs


def _best(configs: pd.DataFrame, by: list[str]) -> list[Place]:
    """Return the configuration of best mean validation loss in every group."""
    ranked = configs.sort_values(["valid_loss", "size_bytes", "config_id"]).drop_duplicates(by)
    return list(zip(ranked["match"], ranked["config_id"], strict=True))


def _fastest(configs: pd.DataFrame) -> Iterator[Place]:
    for side in (light, heavy):
        yield from _best(configs[side(configs)], ["match", *_SHAPE, "engine"])


def _dense(configs: pd.DataFrame) -> Iterator[Place]:
    dense = configs[(configs["recipe"] == "fp32") & configs["teaching"].isna()]
    yield from zip(dense["match"], dense["config_id"], strict=True)


def _students(configs: pd.DataFrame) -> Iterator[Place]:
    students = configs[configs["teaching"].notna()].assign(quantized=lambda lines: lines["bits"].notna())
    yield from _best(students, ["size", "teaching", "quantized"])


def _shapes(configs: pd.DataFrame) -> Iterator[Place]:
    reshaped = configs[configs["reshaped"] & configs["teaching"].isna() & (configs["match"] == PRIMARY_MATCH)]
    yield from _best(reshaped, ["kind"])


def _rounding(configs: pd.DataFrame) -> Iterator[Place]:
    yield from _best(configs[configs["activation_bits"].notna()].assign(one=1), ["one"])


def _compared(configs: pd.DataFrame, entry: dict[str, Any]) -> Iterator[str]:
    here = configs[configs["match"] == PRIMARY_MATCH]
    plain = here["teaching"].isna()
    sizes = entry["compared_sizes"]
    dense = here[plain & (here["recipe"] == "fp32")]
    yield from dense.loc[dense["size"].isin(sizes if sizes is not None else dense["size"]), "config_id"]
    whole = here[here["bits"].isna() & here["activation_bits"].isna()]
    for group in (whole[whole["reshaped"] & whole["teaching"].isna()], whole[whole["teaching"].notna()]):
        yield from (name for _, name in _best(group.assign(one=1), ["one"]))
