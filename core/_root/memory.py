"""Keeping memory between steps: the C library's allocator hands large blocks back to the system after every forward."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_BLOCK = 32 * 2**20  # bytes: the largest block that glibc lets come from the heap


def keep_memory() -> bool:
    """Ask glibc to keep freed memory for the next step; true where that worked (Linux with glibc).

    Without it the activations of each forward are mapped afresh, page by page: a forward of 10 ms on the CPU then takes a
    quarter longer inside a sampler than in a bare loop. It changes the whole process, so only programs call it (the
    `tiltflow` command does), never the library by itself. The memory is given back when the process ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(_MMAP_THRESHOLD, _BLOCK))
