"""The time left of a run."""

import pytest

from hardrank.models.progress import StageProgress
from hardrank.trainer.runtime.time_left import TimeLeft


def test_the_estimate_of_later_stages_follows_the_pace_so_far() -> None:
    """Half of a stage of 100 s took 150 s, so the later 60 s become 180 s; other stages are passed on as they are."""
    now, seen = [0.0], list[StageProgress]()
    report = TimeLeft({"warmup": 100.0, "robust": 40.0, "attacks": 20.0}, seen.append, clock=lambda: now[0])
    report(StageProgress(stage="warmup", done=10, total=100))
    now[0] = 150.0
    report(StageProgress(stage="warmup", done=60, total=100))
    report(StageProgress(stage="export", done=0, total=1))
    report(StageProgress(stage="attacks", done=0, total=5))
    assert [progress.later_seconds for progress in seen] == [60.0, 180.0, None, 0.0]


def test_work_of_a_resumed_run_counts_from_its_first_report() -> None:
    """A stage of 100 s continues at 90 %; its last 10 s take 20 s."""
    now, seen = [0.0], list[StageProgress]()
    report = TimeLeft({"warmup": 100.0, "robust": 40.0}, seen.append, clock=lambda: now[0])
    report(StageProgress(stage="warmup", done=90, total=100))
    now[0] = 20.0
    report(StageProgress(stage="warmup", done=100, total=100))
    assert seen[-1].later_seconds == pytest.approx(80.0, rel=1e-9)
