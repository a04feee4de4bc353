"""How many processor cores this process may use."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hardrank.models.errors import HardrankError

THREADS_VARIABLE: Final = "HARDRANK_THREADS"
_CGROUP: Final = Path("/sys/fs/cgroup")


class ThreadsError(HardrankError):
    """A number of threads that is not a positive integer."""


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Return the number of threads to use by default, at least 1.

    That is `HARDRANK_THREADS` where it is set, else the smallest of: the cores of the machine, the cores that the
    process is bound to, and the CPU quota of its control group, rounded up (`docker run --cpus=2` gives 2).

    Raises:
        ThreadsError: `HARDRANK_THREADS` is not a positive integer.
    """
    stated = os.environ.get(THREADS_VARIABLE, "")
    if stated:
        if not stated.isdecimal() or int(stated) < 1:
            raise ThreadsError(f"{THREADS_VARIABLE} must be a positive integer, not {stated!r}")
        return int(stated)
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(bound, math.ceil(_quota(cgroup))))


def cores_of_threads(threads: int) -> tuple[int, ...]:
    """Return a core for each of `threads` threads to stay on, or none if they are not one per core of this process.

    A thread that another wakes starts on the core of that other. Where both then compute, each waits for the other
    until the kernel moves one, after milliseconds: as long as a small network takes.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ()
    cores = sorted(os.sched_getaffinity(0))
    return tuple(cores) if threads == len(cores) else ()


@contextmanager
def staying_on(cores: tuple[int, ...]) -> Iterator[None]:
    """Keep the calling thread on `cores` for the duration of the block; with none, wherever it may run."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _quota(cgroup: Path) -> float:
    """Cores that the control group allows (version 2, then 1); 65 536 without a limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except OSError:
            return float(2**16)
    unlimited = not quota.isdecimal() or int(quota) == 0 or int(period) == 0
    return float(2**16) if unlimited else int(quota) / int(period)
