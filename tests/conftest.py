"""What every test may use: the shared reference data, where it is at hand."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes tells how busy the machine is.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# Several workers share the machine: a second thread in each would only wait. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """Restore `__main__`, which Streamlit's AppTest replaces and which spawned processes import."""
    module = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = module


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Let PyTorch draw the same numbers in each run: a gradient at a kink of a ReLU would fail in some runs only."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of golden results and photographs, at $SHARED_DIR or beside the project's root."""
    folder = Path(os.environ.get("SHARED_DIR", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"the shared reference folder is absent: {folder}")
    return folder


@pytest.fixture(params=[False, True], ids=["float32", "bf16"])
def bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether this processor is said to gain from bf16: a test that takes this runs under both answers."""
    answer = bool(request.param)
    monkeypatch.setenv("HARDRANK_BF16", "1" if answer else "0")
    return answer


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium for the tests of a module, which are marked `needs_chromium`."""
    pytest.importorskip("playwright", reason="Playwright is not installed: pip install -e '.[test]'")
    from tests.chromium import chromium

    with chromium() as running:
        yield running
