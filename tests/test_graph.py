"""The real graph: a stage depends on the code it imports, on its own entry, and on nothing else's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.graph import closure, graph
from pipeline.params import combined, read_params, write_params

STAGES = {
    "prepare": "prepare",
    "pretrain": "pretrain",
    "finetune": "finetune",
    "quantize": "quantize",
    "prune": "prune",
    "evaluate": "evaluate",
    "translate_test": "translate",
    "distill": "distill",
    "engines": "engines",
    "time": "time",
    "report": "report",
}


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_hold_every_module_that_is_imported(stage: str) -> None:
    """The static closure against what Python itself finds: import every dependency, see which modules of ours came along."""
    deps = [dep for dep in graph(read_params())["stages"][stage]["do"]["deps"] if dep.endswith(".py")]
    modules = [dep.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for dep in deps]
    program = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "ours = [m for n, m in sys.modules.items() if n.split('.')[0] in ('pipeline', 'stages')]\n"
        "print(json.dumps(sorted(m.__file__ for m in ours if m.__file__)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = {
        Path(file).resolve().relative_to(Path.cwd()).as_posix() for file in json.loads(answer.stdout.splitlines()[-1])
    }
    assert imported <= set(deps)


def _using(file: str) -> set[str]:
    return {name for name, stage in graph(read_params())["stages"].items() if file in stage["do"]["deps"]}


def test_touching_the_analysis_reruns_the_report_alone() -> None:
    templates = sorted(Path("pipeline/analysis").glob("*.j2"))
    files = [*sorted(Path("pipeline/analysis").glob("*.py")), *templates]
    assert len(files) > 5
    for file in files:
        assert _using(file.as_posix()) <= {"report"}, file
    assert _using("pipeline/analysis/verdict.py") == {"report"}
    assert len(templates) > 1
    assert all(_using(file.as_posix()) == {"report"} for file in templates)


def test_touching_a_method_reruns_that_method_and_what_reads_it() -> None:
    assert "prune" in _using("pipeline/compression/recovery.py")
    assert "pretrain" not in _using("pipeline/compression/recovery.py")
    assert "pretrain" not in _using("pipeline/distillation/losses.py")
    assert _using("pipeline/training/loop.py") >= {"pretrain", "prune", "distill"}


def test_the_closure_ignores_imports_for_type_checkers_and_follows_lazy_ones(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pipeline.study\ndef f():\n    import pipeline.files\n",
        encoding="utf-8",
    )
    names = closure(path)
    assert "pipeline/files.py" in names
    assert "pipeline/errors.py" in names
    assert "pipeline/study.py" not in names


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own graph over the smoke study, every output stood in for by a small file and recorded as done."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("pipeline", "stages", "configs"):
        shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    _dvc(folder, "init", "--no-scm", "-q")
    _dvc(folder, "config", "core.analytics", "false")
    _write(folder)
    _stand_in(folder)
    _dvc(folder, "commit", "-f", "-q")
    return folder


def _dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def _write(folder: Path) -> None:
    from contextlib import chdir

    with chdir(folder):
        write_params(combined([Path("configs/smoke.yaml")]))
    (folder / "dvc.yaml").write_text(Path("dvc.yaml").read_text(encoding="utf-8"), encoding="utf-8")


def _stages(folder: Path) -> dict[str, Any]:
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        return {stage.name: [out.fs_path for out in stage.outs] for stage in repo.index.stages}


def _stand_in(folder: Path) -> None:
    for outs in _stages(folder).values():
        for out in map(Path, outs):
            if out.suffix:
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(out.name, encoding="utf-8")
            else:
                out.mkdir(parents=True, exist_ok=True)
                (out / "stand-in").write_text(out.as_posix(), encoding="utf-8")


def _dependents(folder: Path, changed: set[str]) -> set[str]:
    """Return the changed stages and all that hang on them, by DVC's own graph."""
    import networkx
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        reached = networkx.DiGraph(repo.index.graph).reverse()
        roots = [stage for stage in reached if stage.name in changed]
        return {s.name for root in roots for s in {root, *networkx.descendants(reached, root)}}


def _status(folder: Path) -> set[str]:
    return set(json.loads(_dvc(folder, "status", "--json")))


def test_when_nothing_changed_nothing_runs(repository: Path) -> None:
    assert _status(repository) == set()


def test_changing_one_size_reruns_that_size_and_what_hangs_on_it(repository: Path) -> None:
    config = repository / "configs" / "smoke.yaml"
    before = config.read_text(encoding="utf-8")
    try:
        data = yaml.safe_load(before)
        data["sizes"][1]["dropout"] = 0.3  # of w32x1, which is no student
        config.write_text(yaml.safe_dump(data), encoding="utf-8")
        _write(repository)
        changed = _status(repository)
        own = {f"pretrain@smoke-w32x1-s{seed}" for seed in (0, 1)}
        own |= {
            f"{kind}@{key}"
            for kind in ("quantize", "prune")
            for key in yaml.safe_load((repository / "params.yaml").read_text(encoding="utf-8"))[kind]
            if key.startswith("smoke-w32x1-s")
        }
        assert "prune@smoke-w32x1-s1-magnitude" in own
        assert changed == own
        reached = _dependents(repository, changed)
        assert not {name for name in reached if "smoke-w16x1-s0" in name}
        assert {
            "evaluate@smoke-w32x1-s1",
            "translate_train@smoke",
            "distill@smoke-w16x1-word-s0",
            "report@smoke",
        } <= reached
        assert "prepare@smoke" not in reached
    finally:
        config.write_text(before, encoding="utf-8")
        _write(repository)


def test_a_removed_size_is_gone_from_the_graph_and_from_what_the_report_reads(repository: Path) -> None:
    config = repository / "configs" / "smoke.yaml"
    before = config.read_text(encoding="utf-8")
    try:
        data = yaml.safe_load(before)
        data["sizes"][1]["seeds"] = 1
        config.write_text(yaml.safe_dump(data), encoding="utf-8")
        _write(repository)
        assert not [name for name in _stages(repository) if "w32x1-s1" in name]
        report = yaml.safe_load((repository / "params.yaml").read_text(encoding="utf-8"))["report"]["smoke"]
        assert report["runs"] == ["smoke-w16x1-s0", "smoke-w32x1-s0"]
        assert "report@smoke" in _status(repository)
    finally:
        config.write_text(before, encoding="utf-8")
        _write(repository)
