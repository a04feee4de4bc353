"""Freed memory is kept, where the C library can."""

import platform
import subprocess
import sys

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
