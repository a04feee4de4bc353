"""The progress bar of loading and of audits."""

import pytest

from hardrank.audit_app.audit.progress import MINUTES_LEFT, SHARE
from hardrank.audit_app.web.gallery_selection import progress_bar
from hardrank.models.progress import StageProgress
from tests.audit_app.apptest import plain


def test_the_bar_of_an_audit_covers_all_of_it() -> None:
    stage = StageProgress(stage="attacks on robust", done=10, total=10, measures={SHARE: 40.0, MINUTES_LEFT: 3.2})
    share, text = progress_bar(stage, waiting="")
    assert share == pytest.approx(0.4)
    assert all(word in plain(text) for word in ("attacks on robust: 10 of 10", "40 % of the audit", "3 min left"))


def test_the_bar_of_loading_is_that_of_its_stage() -> None:
    assert progress_bar(None, waiting="Starting…") == (0.0, "Starting…")
    share, text = progress_bar(StageProgress(stage="images", done=1, total=4), waiting="")
    assert share == pytest.approx(0.25)
    assert "audit" not in text
