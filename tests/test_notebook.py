"""The example notebook runs, from a folder that is no project, and shows its figures."""

from __future__ import annotations

import base64
import importlib.util
from pathlib import Path

import pytest
from conftest import ROOT
from made.starting import STARTER

NOTEBOOK = ROOT / "docs/notebook.ipynb"
nbformat = pytest.importorskip("nbformat", reason="no nbformat: pip install -e '.[dev]'")
KERNEL = all(map(importlib.util.find_spec, ("nbclient", "ipykernel")))


def test_the_notebook_holds_no_output_of_anybody_s_machine() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.slow
@pytest.mark.skipif(not KERNEL, reason="no nbclient or ipykernel: pip install -e '.[dev]'")
def test_the_notebook_runs_and_shows_four_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    startup = tmp_path / "ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "forks.py").write_text(f"import sys; sys.executable = {STARTER.controller!r}")  # the jobs of a run
    book = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(book, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4
    for number, picture in enumerate(pictures):
        (tmp_path / f"{number}.png").write_bytes(base64.b64decode(picture))
    assert [
        path.name for path in tmp_path.iterdir() if path.name.startswith("kd-")
    ] != []  # the project, and nothing else
    assert not (tmp_path / "results").exists()
