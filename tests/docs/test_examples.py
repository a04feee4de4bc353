"""The Python of the documentation runs as it is written, on bundles of untrained networks called as the real ones."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardrank.trainer.runtime.launch import ROOT
from tests.serving.bundles import write_bundle

_BLOCK = re.compile(r"(?P<unrun><!-- not run: .*? -->\n)?^```python\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)
_LONGEST = 10


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two bundles and photographs, as a reader of the documentation has it."""
    folder = tmp_path_factory.mktemp("place")
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
    """The blocks of a page that are to be run."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [match["code"] for match in _BLOCK.finditer(text) if not match["unrun"]]


@pytest.mark.parametrize("page", ["attacks.md", "bundle.md", "python.md"])
def test_examples_run(page: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page == "python.md":
        pytest.importorskip("pytorch_metric_learning")
    monkeypatch.chdir(place)
    names: dict[str, object] = {}
    assert blocks(page)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks(page):
            exec(compile(block, page, "exec"), names)


def test_common_things_are_short() -> None:
    """Ten lines of code at most, imports apart."""
    for block in blocks("python.md"):
        lines = [line for line in block.splitlines() if line and not line.startswith(("import ", "from "))]
        assert len(lines) <= _LONGEST, block
