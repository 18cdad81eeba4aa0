"""The notebook runs from top to bottom over a results folder, and is committed without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.analysis.synthetic import report_entry, write_artifacts

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "explore.ipynb"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The committed results of the default study where there are any, else a synthetic study's."""
    committed = ROOT / "results" / "default"
    if (committed / "metrics.json").exists():
        return committed
    from pipeline.analysis.report import write_report

    entry = report_entry(sizes=["w32x2", "w64x2"], seeds=2, recipes=["q8", "q4"], resamples=100)
    folder = write_artifacts(tmp_path, entry)
    write_report(entry, artifacts=folder, out=tmp_path / "results")
    return tmp_path / "results"


def test_every_cell_runs(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLC_RESULTS", str(results))
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "equal device seconds" in printed


def test_no_outputs_are_committed() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
