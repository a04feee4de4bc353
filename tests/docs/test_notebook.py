"""The notebook runs, and is stored without outputs."""

import json
import re
from pathlib import Path

import pytest

from hardrank.trainer.runtime.launch import ROOT

NOTEBOOK = ROOT / "docs" / "notebooks" / "tour.ipynb"


def test_outputs_are_stripped() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / ".ci" / "src"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    assert any("image/png" in out.get("data", {}) for out in printed)
    text = "".join(out.get("text", "") for out in printed)
    assert re.search(r"robust: Recall@1 \d+ %, ERS [\d.]+", text)
