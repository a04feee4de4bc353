"""The Python of the documentation runs as it is written, on bundles of untrained networks called as the real ones."""

import re
from pathlib import Path

import pytest

from tests.serving.bundles import write_bundle
from trainer.launch import ROOT

PAGES = ("attacks.md",)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    for seed, name in enumerate(("demo-benign", "demo-robust")):
        write_bundle(folder / "models" / "zoo" / name, seed=seed, size=64)
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})
