"""Detecting that a computation does not fit memory, before the system ends the process."""

import gc
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Optional

import torch

KEPT_FREE = 2**29  # bytes for other processes and for memory that is not counted for this process
# the messages of torch's allocator, and of the C++ library's exception, which torch passes on
ON_CPU = ("DefaultCPUAllocator: can't allocate memory", "std::bad_alloc")


class Attempt(NamedTuple):
    """The result of a computation, or that it did not fit memory."""

    fits: bool
    value: Any = None


def attempt(compute: Callable[[], Any], cuda: Any = torch.cuda) -> Attempt:
    """Run compute; errors other than a lack of memory are raised."""
    try:
        return Attempt(True, compute())
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
    # the error, and with it the frames that referred to allocated memory, no longer exist here
    gc.collect()
    if cuda.is_initialized():
        cuda.empty_cache()
    return Attempt(False)


def is_lack_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory, of the host or of a GPU, was exhausted."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ON_CPU)


@contextmanager
def limited_memory(
    device: str, gigabytes: Optional[float], shared_by: int = 1, cuda: Any = torch.cuda
) -> Iterator[None]:
    """Limit what this process allocates from now on, to its share of free memory by default.

    shared_by: the number of processes that share the free memory. On CPU the address space is
    limited: without a limit, Linux grants more memory than it has, and ends the process that uses
    it. One gigabyte is 10^9 bytes.
    """
    room = None if gigabytes is None else int(gigabytes * 1e9)
    if device == "cuda":
        with _limited_gpu(room, cuda):
            yield
        return
    if room is None:
        room = _free_bytes(shared_by)
    if room is None or not sys.platform.startswith("linux"):
        yield  # the free memory is unknown
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = _address_space() + room
    for other in before:
        limit = limit if other == resource.RLIM_INFINITY else min(limit, other)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def _limited_gpu(room: Optional[int], cuda: Any) -> Iterator[None]:
    """Limit torch's allocator if room is given; without a limit, the GPU's memory is the limit."""
    if room is None:
        yield
        return
    total = cuda.get_device_properties(cuda.current_device()).total_memory
    share = (cuda.memory_reserved() + room) / total
    cuda.set_per_process_memory_fraction(min(1.0, share))
    try:
        yield
    finally:
        cuda.set_per_process_memory_fraction(1.0)


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _free_bytes(shared_by: int) -> Optional[int]:
    """Return the free bytes for each process, the minimum of the machine's and the container's."""
    free = [value for value in (_free_on_machine(), _free_in_container()) if value is not None]
    return max(0, min(free) - KEPT_FREE) // shared_by if free else None


def _free_on_machine() -> Optional[int]:
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
    except OSError:
        return None
    return int(lines["MemAvailable"].split()[0]) * 1024


def _free_in_container() -> Optional[int]:
    """Return the bytes that cgroup v2 leaves, None without a limit; file caches count as free."""
    folder = Path("/sys/fs/cgroup")
    try:
        most = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return None if most == "max" else int(most) - used + int(stat.get("file", 0))
