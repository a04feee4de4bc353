"""The Python examples in the documentation run, on bundles of untrained networks with the names of the demo models."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardrank.trainer.runtime.launch import ROOT
from tests.serving.bundles import write_bundle

_BLOCK = re.compile(r"(?P<unrun><!-- not run: .*? -->\n)?^```python\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)
_MAX_LINES = 10


@pytest.fixture(scope="module")
def folder_of_a_reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two bundles and images, as the documentation assumes."""
    folder = tmp_path_factory.mktemp("reader")
    for seed, name in enumerate(("demo-benign", "demo-robust")):
        write_bundle(folder / "models" / "zoo" / name, seed=seed, size=64)
    generator = np.random.default_rng(0)
    for label in ("lamp", "vase"):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(1, 6):
            pixels = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / label / f"{number}.png")
    return folder


def blocks(page: str) -> list[str]:
    """The Python blocks of a page, except those marked as not run."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [match["code"] for match in _BLOCK.finditer(text) if not match["unrun"]]


@pytest.mark.parametrize("page", ["attacks.md", "bundle.md", "python.md"])
def test_examples_run(page: str, folder_of_a_reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page == "python.md":
        pytest.importorskip("pytorch_metric_learning")
    monkeypatch.chdir(folder_of_a_reader)
    names: dict[str, object] = {}
    assert blocks(page)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks(page):
            exec(compile(block, page, "exec"), names)


def test_examples_are_short() -> None:
    """At most ten lines each, without imports."""
    for block in blocks("python.md"):
        lines = [line for line in block.splitlines() if line and not line.startswith(("import ", "from "))]
        assert len(lines) <= _MAX_LINES, block
