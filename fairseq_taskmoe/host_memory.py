"""Memory of the host, for computing on CPU."""

import ctypes
import sys

# of malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let the C library keep what this process frees, for its next allocation.

    By default glibc gives large blocks back to the system, and the next step gets them anew,
    page by page and filled with zeros: a fifth of the time of an MoE layer's forward and backward
    pass, whose gradients of all experts are such blocks. The process then stays as large as it has
    been. Returns False, and does nothing, where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
