"""dvc.yaml: the graph of stages, each with the files that it really imports as dependencies."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import yaml

from pipeline.files import atomic_path

PATH = Path("dvc.yaml")
PACKAGES = ("pipeline", "stages")
_HEADER = """\
# Written by `tlc plan --write` from pipeline/graph.py: the stages stand there, and their code dependencies are the closure
# of what each stage's module imports. A stage loops over its entries in params.yaml and depends on its own entry alone.
"""

_TEMPLATES = ("checks", "latency", "page", "students", "terms_classification", "terms_translation")
DATA_FILES = {"pipeline/analysis/page.py": [f"pipeline/analysis/{name}.html.j2" for name in _TEMPLATES]}
"""Files that a module reads at run time, and on which its importers therefore depend."""

EXCLUSIVE = frozenset({"time", "translate_test", "engines"})
"""Stages that have a node to themselves: what measures time, and what uses every core by itself."""

MEMORY_BYTES = {
    "prepare": 2_000_000_000,
    "pretrain": 1_500_000_000,
    "finetune": 1_500_000_000,
    "quantize": 1_000_000_000,
    "prune": 1_500_000_000,
    "evaluate": 1_000_000_000,
    "translate": 1_500_000_000,
    "distill": 1_500_000_000,
    "engines": 3_000_000_000,
    "time": 3_000_000_000,
    "report": 1_000_000_000,
}
"""What a stage may come to need; so many run side by side as fit. `meta` is no part of what DVC hashes."""


def module_file(name: str) -> Path | None:
    """Return the file of a module of ours (``pipeline.flops``), or None for anybody else's."""
    if name.split(".")[0] not in PACKAGES:
        return None
    path = Path(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported_modules(path: Path) -> set[str]:
    """Return the dotted names that a file imports, inside functions too; imports for type checkers alone do not count."""
    names: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if _is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        pending.extend(ast.iter_child_nodes(node))
    return names


def closure(path: Path) -> list[str]:
    """Return the files of ours that `path` reaches through imports, itself and their data files included, sorted."""
    seen: set[Path] = set()
    pending = [path]
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        for name in imported_modules(current):
            found = module_file(name)
            if found is not None:
                pending.append(found)
            package = found.parent / "__init__.py" if found else None
            if package is not None and package.is_file():
                pending.append(package)
    files = {path.as_posix() for path in seen}
    return sorted(files | {data for file in files for data in DATA_FILES.get(file, [])})


def _stage(module: str, option: str, deps: list[str], outs: list[Any], *, foreach: str) -> dict[str, Any]:
    return {
        "foreach": f"${{{foreach}}}",
        "do": {
            "cmd": f"python -m stages.{module} {option} ${{key}}",
            "params": [f"{foreach}.${{key}}"],
            "deps": [*deps, *closure(Path("stages", f"{module}.py"))],
            "outs": outs,
            "meta": {"cpus": 1, "memory_bytes": MEMORY_BYTES[module], "exclusive": foreach in EXCLUSIVE},
        },
    }


def corpus_files(params: dict[str, Any]) -> list[str]:
    """Return the local files and folders that the studies' corpora are read from."""
    fields = [f"{split}{side}_path" for split in ("", "valid_", "test_") for side in ("source", "target")]
    sections = [
        section
        for entry in params["prepare"].values()
        for section in (entry, *(part for part in entry.values() if isinstance(part, dict)))
    ]
    named = [
        section.get(field)
        for section in sections
        for field in ("path", "valid_path", "test_path", "tokenizer", *fields)
    ]
    named += [path for section in sections for path in section.get("paths") or ()]
    return sorted({Path(name).as_posix() for name in named if name is not None and Path(name).exists()})


def graph(params: dict[str, Any]) -> dict[str, Any]:
    """Return dvc.yaml as data. Stages over one study depend on whole folders of artifacts and read their own runs from them."""
    at, one = "artifacts/${item.study}", "artifacts/${key}"
    corpus, pretrained, compressed = (f"{at}/{folder}" for folder in ("corpus", "pretrain/${key}", "compressed/${key}"))
    of_family = [f"{at}/compressed/${{item.run}}/${{item.family}}"]
    every_model = [f"{one}/{kind}" for kind in ("${item.trained_in}", "compressed", "${item.further_in}")]
    stages = {
        "prepare": _stage("prepare", "--study", corpus_files(params), [f"{one}/corpus"], foreach="prepare"),
        "pretrain": _stage("pretrain", "--run", [corpus], [pretrained], foreach="pretrain"),
        "finetune": _stage("finetune", "--run", [corpus, pretrained], [f"{at}/finetune/${{key}}"], foreach="finetune"),
        **{
            stage: _stage(stage, "--run", [corpus, f"{at}/${{item.parent}}"], of_family, foreach=stage)
            for stage in ("quantize", "prune")
        },
        "evaluate": _stage(
            "evaluate",
            "--run",
            [corpus, f"{at}/${{item.trained_in}}/${{key}}", compressed],
            [f"{at}/evaluate/${{key}}"],
            foreach="evaluate",
        ),
        "translate_train": _stage(
            "translate",
            "--train",
            [f"{one}/corpus", f"{one}/pretrain"],
            [f"{one}/translate/train"],
            foreach="translate_train",
        ),
        "distill": _stage(
            "distill",
            "--run",
            [corpus, f"{at}/pretrain", f"{at}/translate/train"],  # a word-level student asks its teacher itself
            [f"{at}/distill/${{key}}"],
            foreach="distill",
        ),
        "evaluate_students": _stage(
            "evaluate",
            "--student",
            [corpus, f"{at}/distill/${{key}}", compressed],
            [f"{at}/evaluate/${{key}}"],
            foreach="evaluate_students",
        ),
        "translate_test": _stage(
            "translate",
            "--test",
            [f"{one}/corpus", f"{one}/evaluate", *every_model],
            [f"{one}/translate/test"],
            foreach="translate_test",
        ),
        "engines": _stage(
            "engines",
            "--study",
            [f"{one}/corpus", f"{one}/evaluate", *every_model],
            [f"{one}/engines"],
            foreach="engines",
        ),
        "time": _stage(
            "time",
            "--study",
            [f"{one}/corpus", f"{one}/engines", *every_model],
            [f"{one}/time"],
            foreach="time",
        ),
        "report": _stage(
            "report",
            "--study",
            [
                f"{one}/{kind}"
                for kind in ("corpus", "pretrain", "compressed", "evaluate", "${item.outputs_in}", "engines", "time")
            ],
            [{f"results/${{key}}/{name}": {"cache": False}} for name in REPORT_OUTS],
            foreach="report",
        ),
    }
    stages["report"]["do"]["metrics"] = [{"results/${key}/metrics.json": {"cache": False}}]
    return {"stages": stages}


REPORT_OUTS = (
    "runs.parquet",
    "runs.csv",
    "curves.csv",
    "engines.csv",
    "figures",
    "report.html",
    "verdict.json",
    "verdict.schema.json",
    "verdict.md",
)


def write_graph(params: dict[str, Any], path: Path = PATH) -> None:
    """Write dvc.yaml atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(_HEADER + yaml.safe_dump(graph(params), sort_keys=False, width=120), encoding="utf-8")
