"""The house rules: what is pinned, which way imports run, how long a file may be, what must never be committed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LONGEST_FILE_LINES = 400
SAYS_NOTHING = re.compile(r"(utils?|helpers?|common|misc|core|base|tools)")
HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "ctranslate2",
    "pandas",
    "pyarrow",
    "seaborn",
    "matplotlib",
    "sacrebleu",
    "scipy",
    "ray",
    "dvc",
}
LAYERS = {
    "pipeline.models": 1,
    "pipeline.corpora": 1,
    "pipeline.engines": 2,
    "pipeline.training": 2,
    "pipeline.orchestration": 2,
    "pipeline.analysis": 3,
    "pipeline.evaluation": 3,
    "pipeline.compression": 3,
    "pipeline.deployment": 3,
    "pipeline.distillation": 3,
    "stages": 4,
}
"""Imports run downwards. Modules directly in pipeline/ (flops, budget, study, ...) are the ground, layer 0."""


@cache
def committed() -> list[Path]:
    """Return the project's files, those of the next commit included; without git, those in its folders."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split("\0")
        paths = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        ours = ["pipeline", "stages", "tests", "configs", "notebooks", "benchmarks"]
        paths = [path for folder in ours for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
        paths += [path for path in ROOT.iterdir() if path.is_file()]
    return sorted(path for path in paths if path.is_file())


def python_files(*folders: str) -> list[Path]:
    """Return the project's Python files, or those under some of its folders."""
    files = [path for path in committed() if path.suffix == ".py"]
    return [path for path in files if not folders or path.relative_to(ROOT).parts[0] in folders]


def module_name(path: Path) -> str:
    """Return ``pipeline.training.loop`` for its file; a package's name for its ``__init__.py``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """Yield the dotted names that a file imports; only those that importing it runs when `at_import`."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


@cache
def import_graph(*, at_import: bool) -> dict[str, set[str]]:
    """Return, for every module of ours, the modules of ours and the top names of others that it imports."""
    ours = {module_name(path): path for path in python_files("pipeline", "stages")}
    graph: dict[str, set[str]] = {}
    for module, path in ours.items():
        graph[module] = set()
        for name in imported(path, at_import=at_import):
            owner = next((known for known in (name, name.rpartition(".")[0]) if known in ours), name.split(".")[0])
            graph[module].add(owner)
    return graph


def layer(module: str) -> int:
    """Return how high a module of ours stands; 0 for the ground."""
    parts = module.split(".")
    return LAYERS.get(".".join(parts[:2]), LAYERS.get(parts[0], 0))


def reached(start: str, graph: dict[str, set[str]]) -> dict[str, list[str]]:
    """Return what `start` reaches, each with one way to it; importing a module imports its packages too."""
    ways: dict[str, list[str]] = {start: [start]}
    pending = [start]
    while pending:
        module = pending.pop()
        package = module.rpartition(".")[0]
        for name in graph.get(module, set()) | ({package} & graph.keys()):
            if name not in ways:
                ways[name] = [*ways[module], name]
                pending.append(name)
    return ways


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return one circle of imports, or an empty list."""
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        for name in sorted(graph.get(module, set())):
            if found := visit(name, [*way, module]):
                return found
        done.add(module)
        return []

    return next(filter(None, (visit(module, []) for module in sorted(graph))), [])


def normal(name: str) -> str:
    """Return a distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    """Return the lock's exact versions by distribution."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pinned = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in pinned}


def test_the_lock_pins_every_dependency_within_its_bounds() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    locked = pins()
    for requirement in map(Requirement, wanted):
        assert normal(requirement.name) in locked, f"requirements.lock lacks {requirement.name}; run make lock"
        assert requirement.specifier.contains(locked[normal(requirement.name)]), f"{requirement}: run make lock"


def test_the_lock_fits_any_machine() -> None:
    locked = pins()
    assert not [name for name, version in locked.items() if "+" in version], "a local version is one machine's build"
    assert not [name for name in locked if name.startswith(("nvidia-", "cuda-")) or name == "triton"]


def test_the_lock_is_what_is_installed() -> None:
    from importlib.metadata import distributions

    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        pytest.skip("not run with the environment of make env")
    # Not all of sys.path: setuptools, once imported, adds packages of its own to it.
    places = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    installed = {normal(found.metadata["Name"]): found.version.split("+")[0] for found in distributions(path=places)}
    assert not {
        name: (version, installed.get(name)) for name, version in pins().items() if installed.get(name) != version
    }


def test_no_package_index_and_no_local_path_is_committed() -> None:
    folders = "|".join(["wor" + "k", "roo" + "t", "home/[a-z]+"])
    forbidden = re.compile(
        rf"index-url *=? *(https?|file):|https?://[^ ]*/simple/|(^|[^A-Za-z.])/({folders})/".encode()
    )
    for path in committed():
        if path == Path(__file__).resolve():
            continue
        content = path.read_bytes()
        found = None if b"\0" in content else forbidden.search(content)
        assert found is None, f"{path.relative_to(ROOT)}: {found.group(0)!r}"


def test_files_are_short_and_named_for_what_they_hold() -> None:
    for path in python_files():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= LONGEST_FILE_LINES, f"{path.relative_to(ROOT)}: {lines} lines are two concepts; split it"
        vague = [part for part in path.relative_to(ROOT).with_suffix("").parts if SAYS_NOTHING.fullmatch(part)]
        assert not vague, f"{path.relative_to(ROOT)}: name it for what it holds"


def test_large_files_and_pickles_stay_out() -> None:
    for path in committed():
        most = 4 if path.name == "dvc.lock" else 1  # a line for every file that each of a study's stages reads
        assert path.stat().st_size <= most * 2**20, (
            f"{path.relative_to(ROOT)}: too large; artifacts belong in the DVC cache"
        )
        assert path.suffix not in {".pkl", ".pickle", ".pt", ".pth", ".safetensors", ".npy"}, path.relative_to(ROOT)


def test_imports_run_downwards() -> None:
    upwards = [
        f"{module} imports {name}"
        for module, names in import_graph(at_import=False).items()
        for name in names & import_graph(at_import=False).keys()
        if layer(name) > layer(module)
    ]
    assert not upwards


def test_no_circle_of_imports() -> None:
    assert not circle(import_graph(at_import=False))
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_light_modules_import_nothing_heavy() -> None:
    graph = import_graph(at_import=True)
    for module in graph:
        ways = reached(module, graph)
        if module.startswith("stages"):
            assert not [" -> ".join(ways[name]) for name in ways.keys() & HEAVY]
        elif module.startswith("pipeline.analysis"):
            assert not [" -> ".join(ways[name]) for name in ways.keys() & {"torch", "transformers"}]


@pytest.mark.parametrize("arguments", [["--help"], ["pretrain", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom stages.cli import main\nsys.argv = ['tlc', *sys.argv[1:]]\n"
        "try:\n    main()\nfinally:\n    print('LOADED', *sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "100"},
    )
    assert result.returncode == 0, result.stderr
    text, _, loaded = result.stdout.rpartition("LOADED")
    assert "Usage" in text
    assert not HEAVY & set(loaded.split())


def test_every_stage_has_its_command() -> None:
    from stages.cli import COMMANDS

    with_app = {
        path.stem for path in python_files("stages") if re.search(r"^app = typer\.Typer", path.read_text("utf-8"), re.M)
    }
    assert with_app - {"cli"} == {name.replace("-", "_") for name in COMMANDS}


def test_a_fault_is_one_line_and_exit_code_1() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "stages.cli", "plan", "--study", "nowhere"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1


def test_ci_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
