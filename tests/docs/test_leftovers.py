"""No page has a part twice, or one that was never written."""

import re
from collections import Counter
from pathlib import Path

import pytest

from hardrank.trainer.runtime.launch import ROOT

_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_sections_are_written_and_stand_once(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = Counter(re.findall(r"^##? .+$", text, flags=re.MULTILINE))
    assert not [heading for heading, count in headings.items() if count > 1]
    assert not re.findall(r"\b\w*PLACEHOLDER\b|\b(?:TODO|FIXME)\b", text)
