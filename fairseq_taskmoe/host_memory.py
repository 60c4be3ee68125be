"""Memory of the host, for computing on CPU."""

import ctypes
import mmap
import sys
from typing import TYPE_CHECKING, Iterable, Iterator, Tuple

if TYPE_CHECKING:  # a translator does without torch
    from torch import Tensor

# of malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# of sys/mman.h
MADV_DONTNEED = 4


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


def return_freed_memory() -> None:
    """Give the system back what this process has freed, where the C library is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if sys.platform.startswith("linux") and trim is not None:
        trim(0)


def release_pages(tensors: "Iterable[Tensor]") -> None:
    """Give back the memory of tensors that lie in a file mapped to memory, unchanged.

    They are read from the file again when they are needed. Other tensors are left alone. Does
    nothing but on Linux, where pages of a file that were read count as the process's memory.
    """
    if not sys.platform.startswith("linux"):
        return
    mapped = list(_mapped_files())
    madvise = ctypes.CDLL(None).madvise
    for tensor in tensors:
        first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        if not any(start <= first and last <= end for start, end in mapped):
            continue
        first = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
        last = last // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), MADV_DONTNEED)


def _mapped_files() -> Iterator[Tuple[int, int]]:
    """Yield the addresses, from and to, at which this process has files mapped."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as regions:
        for region in regions:
            addresses, _, _, _, inode, *_ = region.split()
            start, end = (int(address, 16) for address in addresses.split("-"))
            if inode != "0":
                yield start, end
