"""Freed memory is kept, in huge pages, where the C library and the kernel can."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SHARES = Path("/proc/self/smaps_rollup")
PROGRAM = """
import ctypes, re, resource, sys
from pathlib import Path
import torch
from hardrank.trainer.runtime.malloc import tune_allocator
torch.set_num_threads(1)
if sys.argv[1] != "leave":
    assert tune_allocator()
if sys.argv[1] == "trim":
    ctypes.CDLL(None).malloc_trim(0)

def work():
    for _ in range(5):
        kept = [torch.zeros(size, dtype=torch.uint8) for size in (40 << 20, 20 << 20, 90 << 20)]
        shares = Path("/proc/self/smaps_rollup")
        huge = re.findall(r"AnonHugePages: *(\\d+) kB", shares.read_text() if shares.is_file() else "")
        del kept
    return huge or [0]

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
huge = work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, *huge)
"""


def measured(how: str) -> tuple[int, int]:
    """Page faults of allocating the same 150 MiB again and again, and how much of them is in huge pages, KiB."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True)
    faults, huge = done.stdout.split()
    return int(faults), int(huge)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_the_same_memory_is_used_again_in_huge_pages() -> None:
    (kept_faults, kept_huge), (left_faults, left_huge) = measured("keep"), measured("leave")
    on_request = HUGE_PAGES.is_file() and "[madvise]" in HUGE_PAGES.read_text(encoding="ascii")
    # The heap may grow once by the largest tensor where the freed blocks are not adjacent: 3 of 25.
    assert kept_faults < left_faults / 3
    if on_request and SHARES.is_file():  # else they are for all or for none
        assert kept_huge > 16 * 1024 > left_huge  # memory may be fragmented
        # Libraries may trim the heap at any time.
        assert measured("trim")[1] > 16 * 1024
