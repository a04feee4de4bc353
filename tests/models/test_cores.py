"""The default number of threads: environment variable, affinity, CPU quota."""

import os
from pathlib import Path

import pytest

from hardrank.models.cores import ThreadsError, cores_of_threads, usable_cores

BOUND = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARDRANK_THREADS", raising=False)


def test_without_a_quota_the_cores_of_the_process_count(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == BOUND
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == BOUND


@pytest.mark.parametrize(("quota", "cores"), [("100000 100000", 1), ("150000 100000", 2), ("5000 100000", 1)])
def test_a_quota_of_version_2_limits(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert usable_cores(tmp_path) == min(BOUND, cores)


def test_a_quota_of_version_1_limits(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000\n")
    assert usable_cores(tmp_path) == 1
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert usable_cores(tmp_path) == BOUND


def test_the_environment_variable_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    monkeypatch.setenv("HARDRANK_THREADS", "7")
    assert usable_cores(tmp_path) == 7
    for bad in ("0", "-1", "two"):
        monkeypatch.setenv("HARDRANK_THREADS", bad)
        with pytest.raises(ThreadsError, match="HARDRANK_THREADS must be a positive integer"):
            usable_cores(tmp_path)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to cores here")
def test_each_thread_has_a_core_if_the_threads_take_all_of_the_process() -> None:
    allowed = os.sched_getaffinity(0)
    assert cores_of_threads(len(allowed)) == tuple(sorted(allowed))
    assert cores_of_threads(len(allowed) + 1) == ()
    os.sched_setaffinity(0, {max(allowed)})
    try:
        assert cores_of_threads(1) == (max(allowed),)
        assert cores_of_threads(len(allowed) + 1) == ()
    finally:
        os.sched_setaffinity(0, allowed)
