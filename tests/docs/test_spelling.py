"""What is written is spelled right, and as in Britain."""

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from hardrank.trainer.runtime.launch import ROOT

_KEPT = frozenset({"defense", "defenses", "program", "programs", "biased"})
"""Defense as the paper's title has it; programs are of computers."""
_NAMES = "WorstCase,nd,unsecure"
"""Identifiers that look like slips."""
_CODE = re.compile(r"```.*?```|`[^`]*`|\]\([^)]*\)|<!--.*?-->|https?://\S+", re.DOTALL)


def pages() -> list[Path]:
    """The pages that people read."""
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_no_common_slip() -> None:
    pytest.importorskip("codespell_lib")
    places = [
        *ROOT.glob("*.md"),
        *(ROOT / name for name in ("docs", "models", "trainer", "serving", "audit_app", "tests")),
    ]
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", _NAMES]
    skipped = ["--skip", "*.json,*.svg,*.png,*/zoo,__pycache__"]
    checked = subprocess.run([*command, *skipped, *places], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_pages_are_british() -> None:
    library = pytest.importorskip("codespell_lib")
    lines = files(library).joinpath("data/dictionary_en-GB_to_en-US.txt").read_text(encoding="utf-8").splitlines()
    american = {
        word.strip(): british
        for british, _, words in (line.partition("->") for line in lines)
        for word in words.split(",")
    }
    found = {
        f"{page.name}: {word}, in Britain {american[word]}"
        for page in pages()
        for word in re.findall(r"[a-z]+", _CODE.sub("", page.read_text(encoding="utf-8")).lower())
        if word in american and word not in _KEPT
    }
    assert not found
