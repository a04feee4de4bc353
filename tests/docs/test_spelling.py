"""Spelling."""

import subprocess
import sys

import pytest

from hardrank.trainer.runtime.launch import ROOT

_NAMES = "WorstCase,nd,unsecure,alph,cancelled,initialisation,unlabelled,optimiser,writeable"
"""Identifiers that look like slips, or that are spelled so in files, options and other libraries."""


def test_american_without_common_slips() -> None:
    pytest.importorskip("codespell_lib")
    places = [
        *ROOT.glob("*.md"),
        *(ROOT / name for name in ("docs", "models", "trainer", "serving", "audit_app", "tests")),
    ]
    dictionaries = ["--builtin", "clear,rare,en-GB_to_en-US", "--ignore-words-list", _NAMES]
    command = [sys.executable, "-m", "codespell_lib", *dictionaries]
    skipped = ["--skip", "*.json,*.svg,*.png,*/zoo,__pycache__"]
    checked = subprocess.run([*command, *skipped, *places], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
