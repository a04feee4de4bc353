"""Memory that is freed stays with the process: the next step's tensors need no fresh pages."""

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_MAX: Final = -4
"""Parameters of mallopt(3)."""

_PAD_BYTES: Final = 256 * 2**20


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed until the process ends; says whether it is one that can (glibc).

    Every pass through a network allocates and frees tensors of many MiB. By default each goes back to the kernel,
    which hands out zeroed pages for the next one, at a fifth of the time of a pass on two cores
    (`benchmarks/allocation.py`). For processes that train or attack; a server that should give memory back does
    without.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # another system, another C library
        return False
    settings = {_TRIM_THRESHOLD: -1, _TOP_PAD: _PAD_BYTES, _MMAP_MAX: 0}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
