"""What is exported: a row of a study's table by its run_id, or a model directory by its path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StudyError, nearest
from pipeline.expected import Expected, expected_models
from pipeline.files import read_json
from pipeline.params import read_params
from pipeline.run_id import parse_run_id

SEARCH = ("beam", "length_penalty", "max_length")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model directory, and what is known of where it comes from."""

    directory: Path
    name: str
    run: dict[str, Any]
    """Its run.json; empty where it has none."""
    run_id: str | None = None
    """Of the row that was measured on these files: they are the study's own artifact."""
    unmeasured: str | None = None
    """Why no measurement is of these files, where there is more to say than that they are no row's."""
    corpus: dict[str, Any] | None = None
    """license and credit of its data, and the languages of translation, with the rest of the study's `prepare` entry."""
    search: dict[str, Any] | None = None
    """beam, length_penalty and max_length of a study of translation."""


def find_source(run: str) -> Source:
    """Return what RUN names: a directory that is there, else a run_id of the studies in params.yaml.

    StudyError with the nearest right name on an unknown run_id, and where the model has not been made or fetched.
    """
    if Path(run).is_dir():
        return _of_directory(Path(run))
    if Path(run).exists():
        raise StudyError(f"{run}: a file; give a model's directory, or a run_id such as default-w64x2-s0-seconds-q4")
    try:
        study = parse_run_id(run)["study"]
    except StudyError:
        raise StudyError(_unknown(run)) from None
    params = read_params()
    if study not in params["studies"]:
        raise StudyError(f"no study {study!r} in params.yaml{nearest(study, params['studies'])}")
    entry = params["engines"][study]  # also where a stage would refuse it as stale: nothing is made here
    expected = {model.run_id: model for model in expected_models(entry)}
    if run not in expected:
        raise StudyError(f"no model {run!r} in study {study!r}{nearest(run, expected)}")
    directory = Path("artifacts", study) / expected[run].folder
    if not directory.is_dir():
        raise StudyError(_absent(directory, expected[run]))
    return _of_study(directory, run, study, entry, own=directory)


def _run_of(directory: Path) -> dict[str, Any]:
    """Return run.json; empty where there is none, StudyError where it is damaged."""
    path = directory / "run.json"
    run = read_json(path) if path.is_file() else {}
    if not isinstance(run, dict):
        raise StudyError(f"{path}: not a run's record; write the model again")
    return run


def _unknown(run: str) -> str:
    if "/" in run or run.startswith("."):
        return f"{run}: no such directory; give a model's directory, or a run_id of the study's table"
    known: list[str] = []
    if Path("params.yaml").is_file():
        for entry in (read_params().get("engines") or {}).values():
            known += [model.run_id for model in expected_models(entry)]
    hint = nearest(run, known) if known else "; give a model's directory, or run this in the project's folder"
    return f"{run!r} is neither a model directory nor a run_id" + (hint if len(hint) < 200 else "")


def _absent(directory: Path, model: Expected) -> str:
    """Return why a study's model is not there, and how to get it."""
    record = directory.parent / "metrics.json"
    if record.is_file():
        status = (read_json(record).get(directory.name) or {}).get("status")
        if status not in (None, "ok"):
            return f"{directory}: {model.run_id} has status {status!r}, it left no model; export another row"
    stage = _stage(model)
    return f"{directory}: not there; make it with `tlc reproduce {stage}` (or `dvc repro {stage}`), or fetch it: `dvc pull {stage}`"


def _stage(model: Expected) -> str:
    """Return the stage of the graph that writes a model, such as ``quantize@default-w64x2-s0-posttraining``."""
    first, key = model.folder.parts[:2]
    if first != "compressed":
        return f"{first}@{key}"
    name = f"{key}-{model.folder.parts[2]}"
    kind = next((kind for kind in ("quantize", "prune") if name in (read_params().get(kind) or {})), "quantize")
    return f"{kind}@{name}"


def _of_directory(directory: Path) -> Source:
    """Return a model directory, with its study where run.json names one that params.yaml knows.

    A row's run_id is kept by the study's own artifact alone: with ``--set`` and ``--out`` a stage writes other models of
    the same name and of the same size.
    """
    if not (directory / "config.json").is_file():
        raise StudyError(
            f"{directory}: no config.json, so no model directory; give the folder that holds a model's files"
        )
    run = _run_of(directory)
    study, run_id = run.get("study"), run.get("run_id")
    if run.get("export"):
        raise StudyError(f"{directory}: already an exported model; export the model that it was made of")
    if study and run_id and Path("params.yaml").is_file():
        params = read_params()
        entry = (params.get("engines") or {}).get(study)
        if entry is not None:
            folder = next((model.folder for model in expected_models(entry) if model.run_id == run_id), None)
            return _of_study(directory, run_id, study, entry, own=folder and Path("artifacts", study) / folder)
    return Source(directory=directory, name=run_id or directory.resolve().name, run=run, corpus=run.get("corpus"))


def _of_study(directory: Path, run_id: str, study: str, entry: dict[str, Any], *, own: Path | None) -> Source:
    """Return a model of a study; `own` is where the study's artifact of its run_id lies, None where it has no such row."""
    measured = own is not None and directory.resolve() == own.resolve()
    elsewhere = f"the row of this name was measured on the study's own artifact, {own}, and this is another directory"
    return Source(
        directory=directory,
        name=run_id,
        run=_run_of(directory),
        run_id=run_id if measured else None,
        unmeasured=elsewhere if own is not None and not measured else None,
        corpus=(read_params().get("prepare") or {}).get(study),
        search={name: entry[name] for name in SEARCH} if "beam" in entry else None,
    )
