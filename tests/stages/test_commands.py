"""Stage commands as a user types them: help without torch, one line for a mistake, a non-zero exit."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stages.cli import COMMANDS

STAGES = sorted(set(COMMANDS))


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("stage", STAGES)
def test_help_has_an_example_and_loads_no_torch(stage: str) -> None:
    module = stage.replace("-", "_")
    program = (
        "import sys, runpy\n"
        f"sys.argv = ['{stage}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('stages.{module}', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    print('exit', stop.code, sorted(m for m in ('torch', 'transformers', 'pandas') if m in sys.modules))\n"
    )
    answer = _run("-c", program)
    assert "Example" in answer.stdout
    assert answer.stdout.splitlines()[-1] == "exit 0 []"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["stages.pretrain", "--run", "default-w64x2-s9"], "no pretrain run 'default-w64x2-s9'"),
        (["stages.pretrain", "--run", "default-w64x2-s0", "--set", "learning_rte=1"], "did you mean 'learning_rate'"),
        (["stages.pretrain", "--run", "default-w64x2-s0", "--set", "dropout=0.1"], "give --out too"),
        (["stages.pretrain", "--run", "default-w64x2-s0", "--set", "learning_rate=abc"], "a float is needed"),
        (
            ["stages.quantize", "--run", "default-w64x2-s0-qat", "--set", "matches=seconds"],
            "a list is needed, as in matches=[",
        ),
        (["stages.calibrate", "--study", "default", "--kind", "trane"], "did you mean 'train'"),
        (["stages.prepare", "--study", "defualt"], "did you mean 'default'"),
        (["stages.evaluate"], "give either --run or --student"),
        (["stages.translate", "--test", "nothing"], "no translate_test run 'nothing'"),
        (["stages.plan", "--study", "nowhere"], "configs/nowhere.yaml: no such study file"),
        (["stages.calibrate", "--study", "other"], "no study 'other'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(arguments: list[str], says: str) -> None:
    answer = _run("-m", *arguments)
    assert answer.returncode == 1
    assert says in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert answer.stderr.startswith("error: ")
