"""Memory and cores of the host, for computing on CPU."""

import ctypes
import mmap
import os
import sys
from typing import TYPE_CHECKING, Iterable, Iterator, Tuple

if TYPE_CHECKING:  # translating with CTranslate2 does not import torch
    from torch import Tensor

# of malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# of sys/mman.h
MADV_DONTNEED = 4


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory for later allocations of this process.

    By default glibc returns large blocks to the system, and the next step allocates them again,
    page by page and filled with zeros. For the gradients of experts this takes a fifth of the time
    of an MoE layer's forward and backward pass. With this, the process never becomes smaller.
    Returns False, and does nothing, without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def return_freed_memory() -> None:
    """Return the freed memory of this process to the system, if the C library is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if sys.platform.startswith("linux") and trim is not None:
        trim(0)


def release_pages(tensors: "Iterable[Tensor]") -> None:
    """Return the memory of unchanged tensors in memory-mapped files to the system.

    They are read from the file again when needed. Other tensors are not changed. Does nothing
    except on Linux, where pages of a file that were read count as memory of the process.
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
    """Yield the address ranges (start, end) of this process's memory-mapped files."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as regions:
        for region in regions:
            addresses, _, _, _, inode, *_ = region.split()
            start, end = (int(address, 16) for address in addresses.split("-"))
            if inode != "0":
                yield start, end


def available_cores() -> int:
    """Return the number of cores that this process may use.

    A job scheduler may restrict them, which only Linux reports.
    """
    own = getattr(os, "sched_getaffinity", None)
    return len(own(0)) if own else os.cpu_count() or 1


def default_threads() -> int:
    """Return torch's default number of threads: OMP_NUM_THREADS, or one for each core."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else available_cores()


def use_passive_waiting() -> None:
    """Make waiting threads release their core, unless the environment sets OMP_WAIT_POLICY.

    To be called before importing torch or CTranslate2, which read it then. If cores are shared with
    other processes, threads that wait actively can make translation a hundred times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
