"""Freed memory is kept, in huge pages, where the C library and the kernel can."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
import torch
from hardrank.trainer.runtime.malloc import tune_allocator
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert tune_allocator()

def work():
    for _ in range(5):
        kept = [torch.zeros(size, dtype=torch.uint8) for size in (40 << 20, 20 << 20, 90 << 20)]
        del kept

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of allocating the same tensors again and again."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_the_same_memory_is_used_again() -> None:
    # The heap may grow once by the largest tensor where the freed blocks are not adjacent: 3 of 25.
    assert faults("keep") < faults("leave") / 3


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SHARES = Path("/proc/self/smaps_rollup")
HUGE = """
import re, sys
from pathlib import Path
import torch
from hardrank.trainer.runtime.malloc import tune_allocator
if sys.argv[1] == "keep":
    assert tune_allocator()
kept = [torch.ones(8 << 20, dtype=torch.uint8) for _ in range(16)]
print(re.search(r"AnonHugePages: *(\\d+) kB", Path("/proc/self/smaps_rollup").read_text())[1])
"""


@pytest.mark.skipif(
    not (SHARES.is_file() and HUGE_PAGES.is_file() and "[madvise]" in HUGE_PAGES.read_text()),
    reason="huge pages are for all or for none",
)
def test_tensors_are_in_huge_pages() -> None:
    kib = {
        how: int(subprocess.run([sys.executable, "-c", HUGE, how], check=True, capture_output=True, text=True).stdout)
        for how in ("leave", "keep")
    }
    assert kib["keep"] > 16 * 1024 > kib["leave"]  # of 128 MiB; memory may be fragmented
