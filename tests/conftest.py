"""What every test may use: the shared reference data, where it is at hand."""

import os
from pathlib import Path

import pytest

# Two workers share the machine: a second thread in each would only wait. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of golden results and photographs, at $SHARED_DIR or beside the project's root."""
    folder = Path(os.environ.get("SHARED_DIR", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"the shared reference folder is absent: {folder}")
    return folder
