"""params.yaml: every committed study expanded, side by side, and the check that it is not stale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.calibration import Calibration
from pipeline.errors import StudyError, nearest
from pipeline.expansion import KINDS, expand
from pipeline.files import atomic_path
from pipeline.study import Study, load_study

PATH = Path("params.yaml")
_HEADER = "# Written by `tlc plan --write` from the studies in configs/; edit those, not this file.\n"


def combined(configs: list[Path]) -> dict[str, Any]:
    """Expand the studies at `configs` into one params.yaml; StudyError when two share a name."""
    result: dict[str, Any] = {"studies": {}, **{kind: {} for kind in KINDS}}
    for config in configs:
        study = load_study(config)
        if study.name in result["studies"]:
            raise StudyError(f"{config}: another study is named {study.name!r} too; rename one of them")
        result["studies"][study.name] = {"config": config.as_posix()}
        for kind, entries in expand(study, Calibration.load(study.name)).items():
            result[kind].update(entries)
    return result


def write_params(params: dict[str, Any], path: Path = PATH) -> None:
    """Write params.yaml atomically, keys in the order of the graph."""
    with atomic_path(path) as temporary:
        temporary.write_text(_HEADER + yaml.safe_dump(params, sort_keys=False, width=120), encoding="utf-8")


def read_params(path: Path = PATH) -> dict[str, Any]:
    """Read params.yaml; StudyError says how to make a missing or damaged one."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file here; run `tlc plan --write` in the project's folder") from None
    except yaml.YAMLError as error:
        raise StudyError(f"{path}: not valid YAML ({' '.join(str(error).split())}); run `tlc plan --write`") from None
    if not isinstance(data, dict) or "studies" not in data:
        raise StudyError(f"{path}: not an expanded study; run `tlc plan --write`")
    return data


def study_of(name: str, params: dict[str, Any] | None = None) -> Study:
    """Load the study of this name through params.yaml's record of where its YAML lies."""
    studies = (params or read_params())["studies"]
    if name not in studies:
        raise StudyError(f"no study {name!r} in params.yaml{nearest(name, studies)}")
    return load_study(studies[name]["config"])


def check_fresh(name: str, params: dict[str, Any]) -> None:
    """Raise StudyError when study `name`'s YAML or calibration has changed since params.yaml was written."""
    study = study_of(name, params)
    for kind, entries in expand(study, Calibration.load(name)).items():
        for key, entry in entries.items():
            if params.get(kind, {}).get(key) != entry:
                config = params["studies"][name]["config"]
                raise StudyError(f"params.yaml is older than {config} ({kind}.{key} differs); run `tlc plan --write`")


def read_entry(kind: str, key: str) -> dict[str, Any]:
    """Return the entry of one run of a stage kind; StudyError on an unknown key or a stale params.yaml."""
    params = read_params()
    entries = params.get(kind) or {}
    if key not in entries:
        raise StudyError(f"no {kind} run {key!r} in params.yaml{nearest(key, entries)}")
    entry = dict(entries[key])
    check_fresh(entry["study"], params)
    return entry
