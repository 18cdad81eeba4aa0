"""Benchmarks end with one JSON object that names its peers, ratios and what was kept equal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ARGUMENTS = {
    "gpu_throughput": [
        "--cpu",
        *["--d-model", "16", "--layers", "1", "--rows", "2", "--gemm-width", "64", "--rounds", "1"],
    ],
    "train_throughput": ["--d-model", "16", "--rounds", "1"],
}


@pytest.mark.parametrize("path", sorted(Path("benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_the_last_line_is_the_contracts_json(path: Path) -> None:
    command = [sys.executable, str(path), *ARGUMENTS[path.stem]]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    record = json.loads(answer.stdout.splitlines()[-1])
    assert record["benchmark"] == path.stem
    assert {"machine", "ours", "peers", "ratio", "equal"} <= set(record)
    assert set(record["ratio"]) == set(record["peers"])
    for peer, ratios in record["ratio"].items():
        for size, ratio in ratios.items():
            assert ratio == pytest.approx(record["ours"][size] / record["peers"][peer][size])


def test_without_a_gpu_its_benchmark_is_one_clear_line() -> None:
    answer = subprocess.run(
        [sys.executable, "benchmarks/gpu_throughput.py"],
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
    assert "no GPU here" in answer.stderr
