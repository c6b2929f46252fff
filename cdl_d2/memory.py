"""Reuse of freed memory by the allocator of the C library."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt
_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors for later ones; return whether it does.

    glibc returns the memory of each tensor of more than 32 MB to the system when the tensor is
    freed, and the next one gets new pages, which the system first fills with zeros. That costs a
    distilled training step on the CPU a quarter of its time. After this call the process holds its
    largest amount of memory until it ends. Forked processes inherit the setting.

    Does nothing with another C library, or if the user has set one of glibc's environment variables
    for this.
    """
    if any(name in os.environ for name in _SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))  # -1: never trim
