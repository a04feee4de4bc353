"""Spelling."""

import subprocess
import sys

import pytest

from hardrank.trainer.runtime.launch import ROOT

_NAMES = "WorstCase,nd,unsecure,alph"
"""Identifiers that look like slips."""


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
