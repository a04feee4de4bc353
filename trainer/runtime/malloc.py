"""Faster memory for passes through networks: freed memory stays in the process, in pages of 2 MiB.

Every pass allocates and frees tensors of many MiB. By default each goes back to the kernel, which hands out zeroed
pages of 4 KiB for the next one: on two cores that takes a fifth of the time of a pass. Maps of small pages also miss
the processor's address cache (TLB) all the time, above all in a virtual machine (`benchmarks/allocation.py`).
"""

import ctypes
import mmap
import os
from pathlib import Path
from typing import Final

_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_MAX: Final = -4
_ARENA_MAX: Final = -8
"""Parameters of mallopt(3)."""

_PAD_BYTES: Final = 256 * 2**20
_LAST_BYTES: Final = 64 * 2**20
"""More than any gap in the heap before, so that it comes last; never touched, so it takes no memory."""
_OVERCOMMIT: Final = Path("/proc/sys/vm/overcommit_memory")
_RESERVED: Final = 0.5
"""Part of the physical memory for which the heap has addresses in huge pages; beyond it, pages are small."""


def tune_allocator() -> bool:
    """Keep freed memory in the process and ask for huge pages, for the rest of the process.

    Meant for processes that train or attack, not for servers. Call it before the first large tensor.

    Returns:
        Whether the C library supports this (glibc does).
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt = libc.mallopt
    except (OSError, TypeError, AttributeError):  # another operating system or C library
        return False
    # One arena: the threads' own ones are not on the heap that is reserved here.
    settings = {_TRIM_THRESHOLD: -1, _TOP_PAD: _PAD_BYTES, _MMAP_MAX: 0, _ARENA_MAX: 1}
    if not all(mallopt(name, value) == 1 for name, value in settings.items()):
        return False
    _reserve_huge_pages(libc)
    return True


def _addresses_are_memory() -> bool:
    """Whether the kernel counts addresses as if they were in use, so that others would lack what is reserved."""
    try:
        return _OVERCOMMIT.read_text().strip() == "2"
    except OSError:
        return False


def _reserve_huge_pages(libc: ctypes.CDLL) -> None:
    """Extend the heap and mark the extension for huge pages. Only addresses are taken: memory comes when it is used.

    Where the kernel refuses either, pages stay small.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE") or _addresses_are_memory():
        return
    page = os.sysconf("SC_PAGE_SIZE")
    size = int(os.sysconf("SC_PHYS_PAGES") * _RESERVED) * page
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = libc.malloc(size)
    if block is None:
        return
    # Never freed: the last part of the heap. Else malloc_trim(3), which libraries call, would give the others back.
    libc.malloc(_LAST_BYTES)
    libc.madvise(-(-block // page) * page, size - page, mmap.MADV_HUGEPAGE)
    libc.free(block)
