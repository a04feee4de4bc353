"""Keeps freed memory in the process, so that the next step's tensors need no new pages from the kernel."""

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_MAX: Final = -4
"""Parameters of mallopt(3)."""

_PAD_BYTES: Final = 256 * 2**20


def keep_freed_memory() -> bool:
    """Stop the C library from returning freed memory to the kernel, for the rest of the process.

    Every pass through a network allocates and frees tensors of many MiB. By default each goes back to the kernel,
    which hands out zeroed pages for the next one; on two cores that takes a fifth of the time of a pass
    (`benchmarks/allocation.py`). Meant for processes that train or attack, not for servers.

    Returns:
        Whether the C library supports this (glibc does).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # another operating system or C library
        return False
    settings = {_TRIM_THRESHOLD: -1, _TOP_PAD: _PAD_BYTES, _MMAP_MAX: 0}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
